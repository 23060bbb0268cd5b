package program_test

import (
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// verdict is a test that notes how it ends.
type verdict struct {
	testing.TB
	ended string
}

func (v *verdict) Helper()               {}
func (v *verdict) Fatalf(string, ...any) { v.ended += "failed" }
func (v *verdict) Skipf(string, ...any)  { v.ended += "skipped" }

// TestMissing: what a test needs and does not have skips it, and fails it with CI=true, where it must not hide.
func TestMissing(t *testing.T) {
	for ci, want := range map[string]string{"": "skipped", "false": "skipped", "true": "failed"} {
		t.Setenv("CI", ci)
		t.Setenv("KBIN", t.TempDir())
		var missing, found verdict
		program.Missing(&missing, "root")
		program.Find(&found, "no-such-program", "install it")
		if ci == "true" {
			missing.ended, found.ended = first(missing.ended), first(found.ended)
		}
		if missing.ended != want || found.ended != want {
			t.Errorf("CI=%q: Missing %s, Find %s, want %s", ci, missing.ended, found.ended, want)
		}
	}
}

// first is how a test ended; one that failed does not go on to skip.
func first(ended string) string { return ended[:min(len(ended), len("failed"))] }
