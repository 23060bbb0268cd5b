package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// What other meshes read is named with its equivalent, on pods of the mesh alone, and no longer once the equivalent is
// there.
func TestForeign(t *testing.T) {
	good := rendered(t)
	annotate := func(lines ...string) string {
		const mark = "labels: {app: web, meshless.dev/package: uvdhs}\n      annotations:\n"
		if !strings.Contains(good, mark) {
			t.Fatalf("the rendered manifests hold no %q", mark)
		}
		return strings.Replace(good, mark, mark+"        "+strings.Join(lines, "\n        ")+"\n", 1)
	}
	const effect = "has no effect here"
	for name, test := range map[string]struct {
		text  string
		wants []string // nothing: no warning of this kind
	}{
		"untouched": {good, nil},
		"Istio": {annotate(`traffic.sidecar.istio.io/excludeOutboundPorts: "5432"`, `sidecar.istio.io/proxyCPU: 100m`), []string{
			"metadata.annotations[traffic.sidecar.istio.io/excludeOutboundPorts]: is Istio's and has no effect here; the equivalent is meshless.dev/exclude-outbound-ports",
			"metadata.annotations[sidecar.istio.io/proxyCPU]: is Istio's and has no effect here; the equivalent is meshless.dev/proxy-cpu",
		}},
		"Istio's interfaces": {annotate(`traffic.sidecar.istio.io/excludeInterfaces: net1`), []string{
			"the equivalent is meshless.dev/exclude-inbound-interfaces, and for what leaves meshless.dev/exclude-outbound-interfaces"}},
		"Istio's interfaces, inbound said": {annotate(`traffic.sidecar.istio.io/excludeInterfaces: net1`, `meshless.dev/exclude-inbound-interfaces: net1`), []string{
			"has no effect here; meshless.dev/exclude-inbound-interfaces says a half of it, and the other is meshless.dev/exclude-outbound-interfaces"}},
		"Istio's interfaces, outbound said": {annotate(`traffic.sidecar.istio.io/excludeInterfaces: net1`, `meshless.dev/exclude-outbound-interfaces: net1`), []string{
			"has no effect here; meshless.dev/exclude-outbound-interfaces says a half of it, and the other is meshless.dev/exclude-inbound-interfaces"}},
		"Istio's interfaces, both said": {annotate(`traffic.sidecar.istio.io/excludeInterfaces: net1`, `meshless.dev/exclude-inbound-interfaces: net1`,
			`meshless.dev/exclude-outbound-interfaces: net1`), nil},
		"Linkerd's subnets": {annotate(`config.linkerd.io/skip-subnets: 10.0.0.0/8`), []string{
			"is Linkerd's and has no effect here; the equivalent is meshless.dev/exclude-outbound-cidrs for what leaves, and there is none for what arrives"}},
		"Linkerd's subnets, said": {annotate(`config.linkerd.io/skip-subnets: 10.0.0.0/8`, `meshless.dev/exclude-outbound-cidrs: 10.0.0.0/8`), nil},
		"Consul's users":          {annotate(`consul.hashicorp.com/transparent-proxy-exclude-uids: "1001"`), []string{"the equivalent is meshless.dev/exclude-outbound-uids"}},
		"Istio's inclusion":       {annotate(`traffic.sidecar.istio.io/includeInboundPorts: "80"`), []string{"everything goes through the proxy but what meshless.dev/exclude-inbound-ports leaves out"}},
		"Linkerd":                 {annotate(`config.linkerd.io/skip-inbound-ports: "25,9000-9010"`), []string{"is Linkerd's and has no effect here; the equivalent is meshless.dev/exclude-inbound-ports"}},
		"Consul": {annotate(`consul.hashicorp.com/transparent-proxy-exclude-outbound-cidrs: 10.0.0.0/8`), []string{
			"is Consul's and has no effect here; the equivalent is meshless.dev/exclude-outbound-cidrs"}},
		"a label":        {strings.Replace(good, "labels: {app: web, meshless.dev/package: uvdhs}\n      annotations", "labels: {app: web, meshless.dev/package: uvdhs, sidecar.istio.io/logLevel: debug}\n      annotations", 1), []string{"metadata.labels[sidecar.istio.io/logLevel]"}},
		"said in ours":   {annotate(`sidecar.istio.io/logLevel: debug`, `meshless.dev/log-level: debug`), nil},
		"kept away":      {annotate(`sidecar.istio.io/inject: "false"`), nil},
		"not in a mesh":  {strings.Replace(manifests, "labels: {app: web}\n    spec", `annotations: {meshless.dev/inject: disabled, sidecar.istio.io/logLevel: debug}`+"\n    spec", 1), nil},
		"no equivalents": {annotate(`config.linkerd.io/opaque-ports: "3306"`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := &report.Report{}
			verify.Check(parse(t, test.text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			var said strings.Builder
			if err := r.WriteText(&said); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(said.String(), effect); got != len(test.wants) {
				t.Errorf("%d warnings, want %d:\n%s", got, len(test.wants), said.String())
			}
			for _, want := range test.wants {
				if !strings.Contains(said.String(), "warning: deployment prod/web: ") || !strings.Contains(said.String(), want) {
					t.Errorf("got:\n%s\nwant %q", said.String(), want)
				}
			}
		})
	}
}
