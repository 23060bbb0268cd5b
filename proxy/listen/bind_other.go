//go:build !linux

package listen

import "syscall"

func bindClient(string, string, syscall.RawConn) error { return nil }

func bindForeign(string, string, syscall.RawConn) error { return nil }

func leaving(string, string, syscall.RawConn) error { return nil }
