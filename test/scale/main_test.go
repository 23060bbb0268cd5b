//go:build linux || darwin

package main

import (
	"strings"
	"testing"
)

// Help is no failure, and what makes no sense is refused before anything is built.
func TestFlags(t *testing.T) {
	for _, flag := range []string{"-help", "-h", "--help"} {
		var out, log strings.Builder
		if err := run([]string{flag}, &out, &log); err != nil || out.Len() > 0 || !strings.Contains(log.String(), "-workloads") {
			t.Errorf("%s: %v, prints %q and %q", flag, err, out.String(), log.String())
		}
	}
	for _, bad := range [][]string{{"-unknown"}, {"-runs", "0"}, {"-namespaces", "x"}} {
		var out, log strings.Builder
		if err := run(bad, &out, &log); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
}
