package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/proxytest"
)

// TestOnce: one request passes both sidecars, and each side knows the other.
func TestOnce(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-once"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"hello " + proxytest.ID("client"), proxytest.ID("client") + "\n  -> " + proxytest.ID("server"), "mutual_tls"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
