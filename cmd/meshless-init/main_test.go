package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// TestRunRefusesMistypedArguments must hold no command line that is right: run would redirect the machine that the test
// runs on.
func TestRunRefusesMistypedArguments(t *testing.T) {
	for _, args := range [][]string{{"--proxy-uid=0"}, {"--exclude-inbound-ports=http"}, {"exclude-inbound-ports=80"}, {"--backend=ipfw"}, {"--nonsense"}, {"remove", "everything"}, {"--remove"},
		{"resolver", "everything"}, {"resolver", "--exclude-outbound-ports=80"}, {"resolver", "remove"}, {"--resolver"}} {
		var out bytes.Buffer
		if err := run(args, &out, io.Discard); err == nil || out.Len() > 0 {
			t.Errorf("%q: got error %v and output %q, want an error alone", args, err, &out)
		}
	}
}

func TestRunHelp(t *testing.T) {
	var usage bytes.Buffer
	if err := run([]string{"--help"}, io.Discard, &usage); err != nil || !strings.Contains(usage.String(), "-proxy-uid") || !strings.Contains(usage.String(), "meshless-init remove") {
		t.Errorf("got %v, %q, want the usage", err, &usage)
	}
}
