//go:build !linux

package testenv

import "syscall"

// childAttr: only Linux can end a child together with its parent.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
