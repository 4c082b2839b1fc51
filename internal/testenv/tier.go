package testenv

import (
	"os"
	"strings"
	"testing"
	"time"
)

// ClusterTier keeps a test that needs several servers of a kind to `make test-cluster`,
// which sets TEST_CLUSTER and finds its tests by their names, and to the long run.
func ClusterTier(t testing.TB) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestCluster") {
		t.Fatal("make test-cluster would not find it: its name has to begin with TestCluster")
	}
	if os.Getenv("TEST_CLUSTER") == "" && !Long() {
		t.Skip("is run by make test-cluster; set TEST_CLUSTER=1")
	}
}

// LongTier keeps a test that takes minutes to `make test-long`, which sets TEST_LONG.
func LongTier(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skip("is run by make test-long; set TEST_LONG=1")
	}
}

// needsServers keeps a test that starts one from `make test-short`.
func needsServers(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
}

// Long reports whether this is the long run, whose figures are held to what the documents
// promise.
func Long() bool { return os.Getenv("TEST_LONG") != "" }

// Lasting is how long a load of a test goes on: as long as the documents speak of in the
// long run, else only until it shows something.
func Lasting(promised, brief time.Duration) time.Duration {
	if Long() {
		return promised
	}
	return brief
}
