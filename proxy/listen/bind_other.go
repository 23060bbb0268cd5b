//go:build !linux

package listen

import "syscall"

func bindLate(string, string, syscall.RawConn) error { return nil }

func leaving(string, string, syscall.RawConn) error { return nil }
