package sidecar

import (
	"crypto/fips140"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// recordsVariable says which record layer the sidecars of the tests have; default relay.Own.
const recordsVariable = "MESHLESS_TEST_RECORDS"

// TestStandardRecords runs the tests of exchanges, refusals, ends and drains with crypto/tls's record layer.
func TestStandardRecords(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if os.Getenv(recordsVariable) != "" || fips140.Enabled() {
		t.Skip("this is such a run")
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.timeout=300s", "-test.run=^Test(ThroughBothProxies|HalfClose|ResetIsPassedOn|"+
		"ServerFirstOnStrict|Policy|Generations|RenewalUnderLoad|AttacksOnStrict|OrdinaryTLSClient|Truncation|Drain.*|AdminPorts|Permissive.*|"+
		"RecordsInForce)$")
	c.Env = append(os.Environ(), recordsVariable+"="+string(relay.Standard))
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRecordsInForce") {
		t.Errorf("with %s=%s: %v\n%s", recordsVariable, relay.Standard, err, out)
	}
}

// TestRecordsInForce: /configz and the log say whose record layer it is.
func TestRecordsInForce(t *testing.T) {
	m := startMesh(t, echo)
	if err := exchange(m.client.outboundAddr(), "through both proxies"); err != nil {
		t.Error(err)
	}
	want := string(relay.Records(os.Getenv(recordsVariable)).InForce())
	if _, dump := m.server.get(t, "GET", "/configz"); !strings.Contains(dump, `"records": "`+want+`"`) {
		t.Errorf("/configz does not say that records are %s:\n%s", want, dump)
	}
	if logged := m.server.logs.String(); !strings.Contains(logged, `"records":"`+want+`"`) {
		t.Errorf("the log does not say that records are %s:\n%s", want, logged)
	}
}
