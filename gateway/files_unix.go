//go:build unix

package gateway

import "syscall"

// openFiles is how many files this process may open, 0 where that is not known. Go's runtime
// has raised it to what the system grants.
func openFiles() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return uint64(r.Cur)
}
