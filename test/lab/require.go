//go:build linux

package lab

import (
	"os"
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// Require skips the test where the lab cannot work: without root (program.Missing).
func Require(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		program.Missing(tb, "root to make network namespaces: sudo -E go test ./test/kernel/...")
	}
}
