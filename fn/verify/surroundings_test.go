package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

const hook = `---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hook}
webhooks: [{name: a.example.com, clientConfig: {service: {namespace: prod, name: web, port: 80}}}]
`

// TestAPIServerPorts: which ports take the app's TLS since the API server calls them, verify reads from the same
// manifests as a render. A port that is opened in the containers alone, or for a caller that is gone, is a finding.
func TestAPIServerPorts(t *testing.T) {
	same := func(*v1alpha1.Spec) {}
	with, without := renderedFrom(t, manifests+hook, same), rendered(t)
	const open, asks = `"tlsPassthroughPorts": "80"`, "error: deployment prod/web: spec.template.metadata.annotations[meshless.dev/tls-passthrough-ports]: asks for "
	if !strings.Contains(with, open) {
		t.Fatalf("the port of the webhook is not open in\n%s", with)
	}
	inferred := func(annotation string) string {
		return renderedFrom(t, strings.Replace(manifests, "labels: {app: web}\n    spec", "labels: {app: web}\n      annotations: {meshless.dev/"+annotation+": '80'}\n    spec", 1)+hook, same)
	}
	for name, test := range map[string]struct{ text, want string }{
		"as rendered":          {with, "info: deployment prod/web: spec.template.metadata.annotations: port 80 takes the app's own TLS beside mutual TLS, since the API server calls it (validatingwebhookconfiguration hook)"},
		"nobody calls":         {without, ""},
		"Strict by name":       {inferred("strict-ports"), ""},
		"Permissive":           {inferred("permissive-ports"), ""},
		"excluded":             {inferred("exclude-inbound-ports"), ""},
		"a caller that left":   {strings.Replace(with, "ValidatingWebhookConfiguration", "Whatever", 1), asks + `""`},
		"a caller that came":   {without + hook, asks + `"80"`},
		"opened by hand":       {strings.Replace(without, `deployment/web",`, `deployment/web", "tlsPassthroughPorts": "80",`, 1), asks + `""`},
		"closed by hand":       {strings.Replace(with, open, `"strictPorts": "80"`, 1), "meshless.dev/strict-ports]: asks for"},
		"asked for and called": {inferred("tls-passthrough-ports"), "info: deployment prod/web: spec.template.metadata.annotations: port 80 takes the app's own TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(t, test.text); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}

// TestSurroundings: what a render says of callers and of other meshes, verify says of what was added since.
func TestSurroundings(t *testing.T) {
	good := rendered(t)
	add := func(text string) string { return good + "---\n" + text }
	for name, test := range map[string]struct{ text, want string }{
		"route":     {add("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: prod}\nspec: {rules: [{backendRefs: [{name: web, port: 80}]}]}\n"), "warning: service prod/web: spec.ports[0]: port 80 is a backend of httproute prod/r"},
		"namespace": {add("apiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {istio-injection: enabled}}\n"), "error: namespace prod: metadata.labels[istio-injection]: istio-injection: enabled has another mesh (Istio) take in"},
		"pod":       {strings.Replace(good, "labels: {app: web", "labels: {app: web, istio.io/rev: x", 1), "error: deployment prod/web: spec.template.metadata.labels[istio.io/rev]: istio.io/rev: x asks another mesh"},
		"policy":    {add("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, namespace: prod}\nspec: {action: DENY, rules: [{}]}\n"), "warning: authorizationpolicy prod/d: spec.action: is Istio's and has no effect here: whom it denies is let in"},
		"quota":     {add("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q, namespace: prod}\nspec: {hard: {limits.cpu: '1'}}\n"), "warning: resourcequota prod/q: spec.hard[limits.cpu]: demands limits.cpu of every container"},
		"range": {add("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q, namespace: prod}\nspec: {hard: {limits.cpu: '1'}}\n---\napiVersion: v1\nkind: LimitRange\nmetadata: {name: l, namespace: prod}\n" +
			"spec: {limits: [{type: Container, default: {cpu: 100m}}]}\n"), ""},
		"minimum": {add("apiVersion: v1\nkind: LimitRange\nmetadata: {name: l, namespace: prod}\nspec: {limits: [{type: Container, min: {cpu: 50m}}]}\n"),
			"warning: limitrange prod/l: spec.limits[0].min[cpu]: wants at least 50m of cpu in every container, and meshless-init requests 10m"},
		"sum": {add("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q, namespace: prod}\nspec: {hard: {requests.memory: 16Mi}}\n"),
			"warning: resourcequota prod/q: spec.hard[requests.memory]: is 16Mi, and the workloads of the input ask for 32Mi with our containers, of which there are 0 without"},
		"DNS": {strings.Replace(good, "      containers:\n      - name: app", "      dnsPolicy: Default\n      containers:\n      - name: app", 1), "warning: deployment prod/web: spec.template.spec.dnsPolicy: Default asks the DNS of the node"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(t, test.text); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}
