package sidecar

import (
	"bytes"
	"runtime/pprof"
	"strings"
	"testing"
)

// TestProfilesHaveLabels: who reads a profile sees which part of the proxy a goroutine is of.
func TestProfilesHaveLabels(t *testing.T) {
	m := startMesh(t, echo)
	m.client.open(t, "x")
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{`{"meshless":"inbound"}`, `{"meshless":"outbound"}`, `{"meshless":"relay"}`} {
		if !strings.Contains(profile.String(), label) {
			t.Errorf("no goroutine has the label %s", label)
		}
	}
}
