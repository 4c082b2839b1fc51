package testenv

import "syscall"

// childAttr puts the child into a process group of its own (a Ctrl-C at the terminal
// reaches only the test) and has the kernel kill it when the test binary dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
