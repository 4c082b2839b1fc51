//go:build unix

package app

import (
	"strings"
	"testing"
)

// Two processes with one data directory lost events: each wrote its own stream over the
// other's.
func TestDataDirectoryHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	first, err := holdDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holdDir(dir); err == nil || !strings.Contains(err.Error(), dir+" is in use") {
		t.Errorf("a second owner: error %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := holdDir(dir)
	if err != nil {
		t.Fatalf("the next owner: %v", err)
	}
	_ = next.Close()
}
