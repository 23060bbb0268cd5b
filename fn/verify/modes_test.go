package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// findings are all lines that verify has to say of manifests.
func findings(t *testing.T, text string, everyWorkload bool) string {
	t.Helper()
	r := &report.Report{}
	verify.Check(parse(t, text), verify.Options{Now: now, EveryWorkload: everyWorkload, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
	var out strings.Builder
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A dry run is said once, however many namespaces have it, and by the command alone: a render says it in its own words.
func TestDryRun(t *testing.T) {
	text := strings.ReplaceAll(rendered(t), "default: AllowMesh", "default: AllowMesh\n      dryRun: true")
	if got := findings(t, text, true); strings.Count(got, "warning:") != 1 || !strings.Contains(got, "authorization is a dry run") || strings.Contains(got, "error:") {
		t.Errorf("said %q", got)
	}
	if got := findings(t, text, false); got != "" {
		t.Errorf("the last step of a render said %q", got)
	}
}

// The environment of a proxy is that of FIPS 140-3 mode, or empty.
func TestEnvironment(t *testing.T) {
	for _, mode := range []v1alpha1.SidecarMode{v1alpha1.NativeSidecar, v1alpha1.ContainerSidecar} {
		good := renderedAs(t, mode)
		env := func(variables string, times int) string { // beside the one that every proxy has
			return strings.Replace(good, "- name: MESHLESS_POD_NAMESPACE\n", variables+"\n        - name: MESHLESS_POD_NAMESPACE\n", times)
		}
		fips := "- {name: GODEBUG, value: fips140=on}"
		for name, test := range map[string]struct {
			text, want string // a finding; none when empty
		}{
			"FIPS":            {env(fips, -1), ""},
			"another":         {env("- {name: GOMEMLIMIT, value: 64MiB}", 1), "error: deployment prod/web"},
			"GODEBUG":         {env("- {name: GODEBUG, value: tlsmlkem=0}", 1), "error: deployment prod/web"},
			"both":            {env("- {name: GODEBUG, value: \"fips140=on,tlsmlkem=0\"}", 1), "error: deployment prod/web"},
			"the last counts": {env(fips+"\n        - {name: GODEBUG, value: tlsmlkem=0}", 1), "error: deployment prod/web"},
			"from elsewhere":  {strings.Replace(good, "- name: meshless-proxy\n", "- name: meshless-proxy\n        envFrom: [{configMapRef: {name: x}}]\n", 1), "error: deployment prod/web"},
			"from a Secret":   {env("- {name: GODEBUG, valueFrom: {secretKeyRef: {name: x, key: y}}}", 1), "error: deployment prod/web"},
			"one of two":      {env(fips, 1), "warning: job ops/once: its proxy does not run in FIPS 140-3 mode, and that of deployment prod/web does"},
		} {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				if test.text == good {
					t.Fatal("nothing was changed")
				}
				got := findings(t, test.text, true)
				if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
					t.Errorf("said %q, want %q", got, test.want)
				}
			})
		}
	}
}

// A port on which the app waits for a PROXY header must reach it through the proxy.
func TestProxyProtocolPorts(t *testing.T) {
	good := rendered(t)
	text := strings.Replace(good, `"spiffeID": "spiffe://cluster.local/ns/prod/deployment/web",`, `"spiffeID": "spiffe://cluster.local/ns/prod/deployment/web", "proxyProtocolPorts": "20-30",`, 1)
	if text == good {
		t.Fatal("the rendered manifests hold no workload.json")
	}
	text = strings.Replace(text, "meshless.dev/workload: |", "meshless.dev/proxy-protocol-ports: 20-30\n        meshless.dev/workload: |", 1)
	if got := findings(t, text, true); got != "" {
		t.Errorf("said %q", got)
	}
	text = strings.Replace(text, "- --proxy-uid=15000\n", "- --proxy-uid=15000\n        - --exclude-inbound-ports=22\n", 1)
	if got := findings(t, text, true); !strings.Contains(got, "port 22 never passes the proxy") {
		t.Errorf("said %q", got)
	}
}

// What an init container is told must be what init can be told in a manifest: no holes that are too wide, and never the
// command that takes the rules out.
func TestInitArguments(t *testing.T) {
	good := rendered(t)
	for args, want := range map[string]string{
		"- --proxy-uid=15000\n        - --exclude-inbound-interfaces=net1\n        - --exclude-outbound-uids=1001": "",
		"- --proxy-uid=15000\n        - --exclude-outbound-uids=0":                                                 "0 is root",
		"- --proxy-uid=15000\n        - --exclude-outbound-uids=15000":                                             "15000 is the proxy's user",
		"- --proxy-uid=15000\n        - --exclude-outbound-interfaces=eth0":                                        "eth0 joins the pod to the cluster",
		"- --proxy-uid=15000\n        - --exclude-inbound-interfaces=\"net*\"":                                     "is not the name of an interface",
		"- remove": "takes rules out (remove)",
	} {
		text := strings.ReplaceAll(good, "- --proxy-uid=15000", args)
		if text == good {
			t.Fatal("the rendered manifests hold no --proxy-uid")
		}
		if got := findings(t, text, true); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: said %q, want %q", args, got, want)
		}
	}
}
