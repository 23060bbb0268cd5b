//go:build !linux

package redirect

import "syscall"

func bindLocal(string, string, syscall.RawConn) error { return nil }

func bindAddress(string, string, syscall.RawConn) error { return nil }
