//go:build linux

package lab

import (
	"os"
	"testing"
)

// Require skips the test where the lab cannot work: without root. With CI=true it fails instead, so that a skip cannot
// hide there.
func Require(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatal("needs root to make network namespaces, and CI=true: run it as root")
	}
	tb.Skip("needs root to make network namespaces: sudo -E go test ./test/kernel/...")
}
