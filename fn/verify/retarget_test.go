package verify_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/netset"
)

// unredirected are workloads without redirect rules in shop, and one with rules in ops.
const unredirected = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {meshless.dev/exclude-inbound-ports: "9100"}
    spec:
      containers:
      - name: app
        image: web:1
        ports: [{containerPort: 8080, name: http}, {containerPort: 9100, name: metrics}]
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  selector: {app: web}
  ports:
  - name: http
    port: 80
    targetPort: http
  - name: metrics
    port: 9100
    targetPort: metrics
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, namespace: shop}
spec:
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      containers: [{name: app, image: web:1, ports: [{containerPort: 3000}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: front
  namespace: shop
spec:
  podSelector:
    matchLabels: {app: front}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 3000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent, namespace: ops}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers: [{name: app, image: agent:1, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: agent, namespace: ops}
spec: {selector: {app: agent}, ports: [{port: 80, targetPort: 8080}]}
`

func unredirect(s *v1alpha1.Spec) {
	s.Redirect.None = []v1alpha1.Selector{{Namespace: "shop"}}
	s.Redirect.Services = map[string]v1alpha1.PortList{"legacy.far": {{Ports: netset.PortsOf(5432)}}}
}

// attack is an edit of rendered manifests, and what verify must say of it; "" for nothing.
type attack struct{ old, with, want string }

// TestRetargetAttacks: whoever leads a Service back to the app's port, or opens that to anyone, is found out, in every
// way that there is.
func TestRetargetAttacks(t *testing.T) {
	good := renderedFrom(t, unredirected, unredirect)
	const ours = "is a NetworkPolicy of meshless for"
	const policy = "  name: meshless-direct-deployment-web\n"
	for name, a := range map[string]attack{
		"untouched": {},
		// Services
		"target port back":            {"targetPort: 30080", "targetPort: http", `service shop/web: spec.ports[0].targetPort: is "http", and must be 30080`},
		"target port back by number":  {"targetPort: 30080", "targetPort: 8080", "service shop/web: spec.ports[0].targetPort: is 8080, and must be 30080"},
		"target port of nobody":       {"targetPort: 30080", "targetPort: 1234", "service shop/web: spec.ports[0].targetPort"},
		"target port gone":            {"    targetPort: 30080\n", "", "service shop/web: spec.ports[0].targetPort"},
		"an excluded port in between": {"targetPort: 30080", "targetPort: 9100", "service shop/web: "},
		"record gone":                 {"    meshless.dev/target-ports: |\n      \"80\": [http, 30080]\n", "    a: b\n", "service shop/web: "},
		"record of another port":      {"[http, 30080]", "[9100, 30080]", "service shop/web: spec.ports[0].targetPort: is 30080, and must be 9100"},
		"record damaged":              {"\"80\": [http, 30080]", "- 80", "service shop/web: metadata.annotations: is not what a render writes there"},
		"record of a word":            {"[http, 30080]", "http", "service shop/web: metadata.annotations: does not say what the port was"},
		"one more port": {"  - name: metrics\n    port: 9100", "  - name: raw\n    port: 81\n    targetPort: 8080\n  - name: metrics\n    port: 9100",
			"service shop/web: spec.ports[1].targetPort: is 8080, and must be 30080"},
		"another protocol":           {"targetPort: 30080", "targetPort: 30080\n    protocol: UDP", "service shop/web: "},
		"a Service of its own":       {"kind: Service\nmetadata:\n  name: web", "kind: Service\nmetadata: {name: back, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web", "service shop/back: spec.ports[0].targetPort: is 8080, and must be 30080"},
		"a Service that is led away": {"metadata: {name: agent, namespace: ops}\nspec: {selector: {app: agent}, ports: [{port: 80, targetPort: 8080}]}", "metadata: {name: agent, namespace: ops, annotations: {meshless.dev/target-ports: '80: [8080, 30080]'}}\nspec: {selector: {app: agent}, ports: [{port: 80, targetPort: 30080}]}", "service ops/agent: spec.ports[0].targetPort: is 30080, and must be 8080"},
		"both modes behind one":      {"  selector: {app: web}\n  ports", "  selector: {app: front}\n  ports", "service shop/web: "},
		// the NetworkPolicies of ours
		"policy gone":           {policy, "  name: meshless-direct-deployment-other\n", "networkpolicy shop/meshless-direct-deployment-other: metadata.name"},
		"policy of somebody":    {"    meshless.dev/identity: spiffe://cluster.local/ns/shop/deployment/web\n    meshless.dev/package: PACKAGE\n  labels:\n    app.kubernetes.io/managed-by: meshless\nspec:\n  ingress", "    a: b\nspec:\n  ingress", "deployment shop/web: its NetworkPolicy meshless-direct-deployment-web is missing"},
		"policy widened":        {"    - protocol: TCP\n      port: 30080", "    - protocol: TCP\n      port: 30080\n    - protocol: TCP\n      port: 8080", "networkpolicy shop/meshless-direct-deployment-web: spec.ingress[0].ports"},
		"policy of a range":     {"    - protocol: TCP\n      port: 30080", "    - protocol: TCP\n      port: 1\n      endPort: 65535", "networkpolicy shop/meshless-direct-deployment-web: spec.ingress[0].ports"},
		"policy without ports":  {"- protocol: TCP\n      port: 9100\n", "- protocol: TCP\n", "networkpolicy shop/meshless-direct-deployment-web: spec.ingress[0].ports[0].port: is missing, and must be 9100"},
		"policy of other pods":  {"      meshless.dev/direct: deployment-web\n", "      meshless.dev/direct: deployment-front\n", "networkpolicy shop/meshless-direct-deployment-web: spec.podSelector.matchLabels[meshless.dev/direct]"},
		"policy of egress":      {"  policyTypes:\n  - Ingress\n", "  policyTypes:\n  - Egress\n", "spec.policyTypes[0]"},
		"policy not applied":    {policy + "  namespace: shop\n  annotations:\n", policy + "  namespace: shop\n  annotations:\n    config.kubernetes.io/local-config: \"true\"\n", "keeps it from being applied"},
		"policy of no workload": {"    meshless.dev/identity: spiffe://cluster.local/ns/shop/deployment/web\n    meshless.dev/package: PACKAGE\n  labels:\n    app.kubernetes.io/managed-by: meshless\nspec:\n  ingress", "    meshless.dev/identity: spiffe://cluster.local/ns/shop/deployment/old\n    meshless.dev/package: PACKAGE\n  labels:\n    app.kubernetes.io/managed-by: meshless\nspec:\n  ingress", ours},
		"pods let go":           {"meshless.dev/direct: deployment-web}", "meshless.dev/direct: deployment-x}", "metadata.labels[meshless.dev/direct]"},
		"a peer more":           {"          app: web\n    ports:", "          app: web\n    - podSelector: {}\n    ports:", "networkpolicy shop/meshless-direct-deployment-front: spec.ingress[0].from"},
		// those of others
		"policy takes them back": {"    matchExpressions:\n    - key: meshless.dev/direct\n      operator: DoesNotExist\n", "", "networkpolicy shop/front: "},
		"takes them by label":    {"operator: DoesNotExist", "operator: Exists", "networkpolicy shop/front: "},
		"one that opens the app's port": {"kind: NetworkPolicy\nmetadata:\n  name: front", "kind: NetworkPolicy\nmetadata: {name: open, namespace: shop}\nspec: {podSelector: {}, ingress: [{ports: [{port: 8080}]}]}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: front",
			"networkpolicy shop/open: spec.podSelector.matchExpressions: is missing"},
		// the plan and the map
		"one direct port less":     {"--direct-ports=8080", "--direct-ports=8081", "service shop/web: spec.ports[0].targetPort: leads to port 8080 of deployment shop/web, which its proxy does not take"},
		"one direct port more":     {"--direct-ports=8080", "--direct-ports=8080,22", "--direct-ports"},
		"no direct ports in a map": {"          directPorts: \"8080\"\n", "", "service web.shop.svc.cluster.local: directPorts is"},
		"another port of a map":    {"      web.shop: 80,9100", "      web.shop: \"80\"", "servicePorts is"},
		"a Service less in a map":  {"      agent.ops: \"80\"\n", "", "servicePorts is"},
		"ports in a map of rules":  {"    namespace: ops\n", "    namespace: ops\n    servicePorts: {web.shop: '80'}\n", "servicePorts is"},
	} {
		t.Run(name, func(t *testing.T) {
			pkg := packageIn(t, good)
			old, with := strings.ReplaceAll(a.old, "PACKAGE", pkg), strings.ReplaceAll(a.with, "PACKAGE", pkg)
			if !strings.Contains(good, old) {
				t.Fatalf("the rendered manifests hold no %q", old)
			}
			text := good
			if old != "" {
				text = strings.Replace(good, old, with, 1)
			}
			if got := findings(t, text, true); a.want == "" && got != "" || !strings.Contains(got, a.want) {
				t.Errorf("said %q, want %q", got, a.want)
			}
		})
	}
}

// TestRetargetMissing: each NetworkPolicy of ours that is taken out is missed.
func TestRetargetMissing(t *testing.T) {
	good := renderedFrom(t, unredirected, unredirect)
	for _, workload := range []string{"web", "front"} {
		objects := strings.Split(good, "\n---\n")
		left := slices.DeleteFunc(slices.Clone(objects), func(o string) bool { return strings.Contains(o, "  name: meshless-direct-deployment-"+workload+"\n") })
		if len(left) != len(objects)-1 {
			t.Fatalf("%s: there is no single policy", workload)
		}
		want := "error: deployment shop/" + workload + ": its NetworkPolicy meshless-direct-deployment-" + workload + " is missing"
		if got := findings(t, strings.Join(left, "\n---\n"), true); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("said %q, want %q", got, want)
		}
	}
}

var retargetedPath = regexp.MustCompile(`^(NetworkPolicy/meshless-direct-.*|NetworkPolicy/front/(spec/podSelector/matchExpressions|metadata/annotations/meshless).*|Service/web/(spec/ports/0/targetPort|metadata/annotations/meshless).*|.*/labels/meshless.dev~1direct.*)$`)

// harmlessRetargeting are changes of what is retargeted that nobody needs to notice.
var harmlessRetargeting = []mutation{
	{".*", `/metadata/labels(/app\.kubernetes\.io.*|/unknownField)?$`, "labels are for people and for the kustomization, which puts its own on everything"},
	{"added", `/metadata/annotations/unknownField$`, "annotations of others are welcome"},
	{".*", `/annotations/internal\.config\.kubernetes\.io~1path$`, "it places the file, and is never applied"},
}

// TestRetargetMutations: every field that leads to proxies without redirect rules is changed, one at a time, as in
// TestMutations.
func TestRetargetMutations(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("takes a minute")
	}
	noticed := 0
	eachRetargeted(decoded(t, renderedFrom(t, unredirected, unredirect)), func(path, what string, mutated []any) {
		switch {
		case found(encoded(t, mutated), nil):
			noticed++
		case !listed(harmlessRetargeting, path, what, map[string]bool{}):
			t.Errorf("%s: %s is not noticed", path, what)
		}
	})
	t.Logf("%d changes are findings", noticed)
	if noticed < 120 {
		t.Errorf("%d changes were noticed; does this test still make them?", noticed)
	}
}

func eachRetargeted(items []any, visit func(path, what string, mutated []any)) {
	for i := range items {
		object := items[i].(map[string]any)
		name := fmt.Sprintf("%s/%s", object["kind"], object["metadata"].(map[string]any)["name"])
		mutate(object, "", func(path, what string, changed any) {
			if retargetedPath.MatchString(name + path) {
				mutated := slices.Clone(items)
				mutated[i] = changed
				visit(name+path, what, mutated)
			}
		})
	}
}

// packageIn is the name of the package of rendered manifests.
func packageIn(t *testing.T, text string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, "name: meshless-bundle-")
	if !found {
		t.Fatal("there is no bundle")
	}
	name, _, _ := strings.Cut(rest, "\n")
	return name
}
