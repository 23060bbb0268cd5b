package simulation

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestMain runs the tests of this package without the race detector, even when it is asked for: a run is one goroutine
// that shares nothing with the others, and three years under the detector take ten times as long.
func TestMain(m *testing.M) {
	if !underRace {
		os.Exit(m.Run())
	}
	flag.Parse()
	args := []string{"test", "-race=false", "-count=1"}
	for _, name := range []string{"run", "timeout", "v"} {
		if value := flag.Lookup("test." + name).Value.String(); value != "" {
			args = append(args, fmt.Sprintf("-%s=%s", name, value))
		}
	}
	command := exec.Command("go", append(args, ".")...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "the tests without the race detector:", err)
		os.Exit(1)
	}
}
