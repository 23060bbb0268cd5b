package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/sidecar"
)

// TestWrongUse: a command line that the program does not take ends with 2, what fails otherwise with 1.
func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"serve"}, {"--log-level=loud"}, {"--records=None"}, {"--idle-timeout=-1s"}, {"--no-redirect=maybe"}, {"--direct-ports=80"},
		{"wait", "now"}, {"wait", "--timeout=0"}, {"drain", "--delay=soon"}, {"drain", "--timeout=0"}} {
		if err := sidecar.Main(args, io.Discard); err == nil || podplan.ExitCode(err) != 2 {
			t.Errorf("%q: got error %v, want one of exit code 2", args, err)
		}
	}
	if err := sidecar.Main([]string{"wait", "--timeout=1ms"}, io.Discard); err == nil || podplan.ExitCode(err) != 1 {
		t.Errorf("without a proxy: got error %v, want one of exit code 1", err)
	}
}

// TestHelp: the usage names the commands, and theirs their flags.
func TestHelp(t *testing.T) {
	for args, want := range map[string][]string{"--help": {"meshless-proxy wait", "meshless-proxy drain", "-log-level", "-records"}, "wait --help": {"-timeout"}, "drain --help": {"-delay", "-timeout"}} {
		var usage bytes.Buffer
		if err := sidecar.Main(strings.Fields(args), &usage); err != nil {
			t.Errorf("%s: %v", args, err)
		}
		for _, text := range want {
			if !strings.Contains(usage.String(), text) {
				t.Errorf("%s lacks %q:\n%s", args, text, &usage)
			}
		}
	}
}
