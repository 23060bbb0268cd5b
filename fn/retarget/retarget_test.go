package retarget_test

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/retarget"
	"github.com/meshless-dev/meshless/internal/api"
)

const workloads = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, annotations: {meshless.dev/exclude-inbound-ports: "9100-9102"}}
    spec: {containers: [{name: c, image: i, ports: [{containerPort: 8080, name: http}, {containerPort: 27017}, {containerPort: 53, protocol: UDP, name: dns}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: twin, namespace: shop}
spec:
  selector: {matchLabels: {app: twin}}
  template:
    metadata: {labels: {app: twin}}
    spec: {containers: [{name: c, image: i, ports: [{containerPort: 18080, name: http}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rules, namespace: ops}
spec:
  selector: {matchLabels: {app: rules}}
  template:
    metadata: {labels: {app: rules}, annotations: {meshless.dev/redirect: Rules}}
    spec: {containers: [{name: c, image: i}]}
`

func parse(t testing.TB, text string) []*yaml.RNode {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// apply retargets the items beside the workloads, and returns the policies of ours as text, by workload.
func apply(t testing.TB, r *report.Report, items ...*yaml.RNode) map[string]string {
	t.Helper()
	spec := v1alpha1.Spec{TrustDomain: "cluster.local", ClusterDomain: "cluster.local", Redirect: v1alpha1.Redirect{Mode: v1alpha1.RedirectNone}}
	spec.Workloads.Overrides = api.Overrides
	m := manifest.Build(append(parse(t, workloads), items...), spec, r)
	if m == nil || r.Failed() {
		return nil
	}
	policies := map[string]string{}
	for _, p := range retarget.Apply(m, items, r) {
		text, err := yaml.NewRNode(p.Spec).String()
		if err != nil {
			t.Fatal(err)
		}
		policies[p.Workload.Name] = text
	}
	return policies
}

// TestTargets: which number a port of a Service leads to.
func TestTargets(t *testing.T) {
	for name, test := range map[string]struct{ spec, want string }{
		"number":                 {"{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}", "30080"},
		"name":                   {"{selector: {app: web}, ports: [{port: 80, targetPort: http}]}", "30080"},
		"by our own label":       {"{selector: {meshless.dev/direct: deployment-web}, ports: [{port: 80, targetPort: http}]}", "30080"},
		"of 20000 and more":      {"{selector: {app: web}, ports: [{port: 80, targetPort: 27017}]}", "21017"},
		"none":                   {"{selector: {app: web}, ports: [{port: 8080}]}", "30080"},
		"zero":                   {"{selector: {app: web}, ports: [{port: 8080, targetPort: 0}]}", "30080"},
		"of no container":        {"{selector: {app: web}, ports: [{port: 80, targetPort: 81}]}", "22081"},
		"of 10000 and more":      {"{selector: {app: twin}, ports: [{port: 80, targetPort: http}]}", "12080"},
		"excluded":               {"{selector: {app: web}, ports: [{port: 80, targetPort: 9101}]}", "9101"},
		"a name of nobody":       {"{selector: {app: web}, ports: [{port: 80, targetPort: typo}]}", "typo"},
		"a name of UDP":          {"{selector: {app: web}, ports: [{port: 80, targetPort: dns}]}", "dns"},
		"the proxy's own":        {"{selector: {app: web}, ports: [{port: 80, targetPort: 15020}]}", "15020"},
		"the proxy's by name":    {"{selector: {app: web}, ports: [{port: 80, targetPort: mesh-metrics}]}", "mesh-metrics"},
		"UDP":                    {"{selector: {app: web}, ports: [{port: 53, targetPort: 53, protocol: UDP}]}", "53"},
		"headless":               {"{clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}", "8080"},
		"headless in a list":     {"{clusterIPs: [None], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}", "8080"},
		"external":               {"{type: ExternalName, externalName: x.example, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}", "8080"},
		"of nobody":              {"{selector: {app: other}, ports: [{port: 80, targetPort: 8080}]}", "8080"},
		"without a selector":     {"{ports: [{port: 80, targetPort: 8080}]}", "8080"},
		"of another namespace's": {"{selector: {app: rules}, ports: [{port: 80, targetPort: 8080}]}", "8080"},
	} {
		r := &report.Report{}
		item := parse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: "+test.spec)[0]
		before := item.MustString()
		apply(t, r, item)
		if errors := r.Errors(); len(errors) > 0 {
			t.Errorf("%s: %v", name, errors)
			continue
		}
		if got := node.Scalar(node.Get(item.YNode(), "spec", "ports").Content[0], "targetPort"); got != test.want {
			t.Errorf("%s: leads to %q, want %q", name, got, test.want)
		}
		if edited := retarget.Edited(item); edited != (item.MustString() != before) {
			t.Errorf("%s: is edited: %v", name, edited)
		}
	}
}

// TestOpened: what ports of an ingress rule open of a workload without redirect rules. Nothing ever opens a port of the
// app itself, and a rule that opens nothing is none: one without ports would open all of them.
func TestOpened(t *testing.T) {
	const all = "TCP 9100-9102 TCP 15020 TCP 15021 TCP 21017 TCP 30080"
	for ports, want := range map[string]string{
		"":                                "TCP 9100-9102 TCP 15020 TCP 15021 TCP 21017 TCP 30080 SCTP UDP",
		"[]":                              "TCP 9100-9102 TCP 15020 TCP 15021 TCP 21017 TCP 30080 SCTP UDP",
		"[{protocol: TCP}]":               all,
		"[{port: 8080}, {protocol: UDP}]": "TCP 30080 UDP",
		"[{port: 8080}]":                  "TCP 30080",
		"[{port: http}]":                  "TCP 30080",
		"[{port: 27017, protocol: TCP}]":  "TCP 21017",
		"[{port: 1, endPort: 65535}]":     all,
		"[{port: 8000, endPort: 9101}]":   "TCP 9100 TCP 9101 TCP 30080",
		"[{port: 15020}]":                 "TCP 15020",
		"[{port: 30080}]":                 "",
		"[{port: 22}]":                    "",
		"[{port: typo}]":                  "",
		"[{port: dns}]":                   "",
		"[{port: dns, protocol: UDP}]":    "UDP dns",
		"[{port: 60, endPort: 70, protocol: UDP}, {port: 8080}]": "TCP 30080 UDP 60-70",
	} {
		r := &report.Report{}
		rule := "{}"
		if ports != "" {
			rule = "{ports: " + ports + "}"
		}
		policies := apply(t, r, parse(t, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: ["+rule+"]}")...)
		if errors := r.Errors(); len(errors) > 0 {
			t.Errorf("%s: %v", ports, errors)
			continue
		}
		if got := openedIn(t, policies["web"]); got != want {
			t.Errorf("%s: opens %q, want %q", ports, got, want)
		}
		if got := openedIn(t, policies["twin"]); got != "TCP 12080 TCP 15020 TCP 15021" {
			t.Errorf("%s: of another workload it opens %q", ports, got)
		}
	}
}

// openedIn are the ports of the only ingress rule of a spec; "" where there is none.
func openedIn(t *testing.T, text string) string {
	t.Helper()
	rules := node.Get(yaml.MustParse(text).YNode(), "ingress")
	if rules == nil {
		return ""
	}
	var all []string
	for _, rule := range rules.Content {
		ports := node.Get(rule, "ports")
		if ports == nil || len(ports.Content) == 0 {
			t.Fatalf("a rule opens everything:\n%s", text)
		}
		for _, port := range ports.Content {
			one := node.Scalar(port, "protocol")
			if number := node.Scalar(port, "port"); number != "" {
				one += " " + number
			}
			if end := node.Scalar(port, "endPort"); end != "" {
				one += "-" + end
			}
			all = append(all, one)
		}
	}
	return strings.Join(all, " ")
}

// FuzzStrip: what Apply writes into a Service or a NetworkPolicy, Strip takes out again, whatever else stands there,
// and a second Apply writes the same.
func FuzzStrip(f *testing.F) {
	for _, text := range []string{
		"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: http}, {port: 81, targetPort: \"http\"}, {port: 8080}]}",
		"apiVersion: v1\nkind: Service\nmetadata:\n  name: s\n  namespace: shop\n  annotations: # none\n  labels: {}\nspec:\n  selector:\n    app: web\n  ports:\n  - port: 8080\n    # it\n    targetPort: # is\n    # null\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop, annotations: {meshless.dev/target-ports: '80: [http, 30080]', z: y}}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 30080}]}",
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop, annotations: ~}\nspec: {podSelector: {}, ingress: [{}], egress: [{ports: [{port: 8080}]}]}",
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec:\n  # who\n  podSelector: {} # all\n  # what\n  ingress:\n  - ports: [{port: http}]\n",
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: {podSelector: {matchExpressions: [], matchLabels: {app: web}}, ingress: [{ports: [{port: &p 8080}, {port: *p}]}]}",
		"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop, annotations: {meshless.dev/network-policy: '{egress: {\"0\": [30080]}, podSelector: }'}}\nspec: {podSelector: {matchExpressions: [{key: meshless.dev/direct, operator: DoesNotExist}]}, ingress: [{}], egress: [{ports: [{port: 30080}]}]}",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
		if err != nil || len(items) != 1 || node.CheckItem(items[0]) != nil {
			return
		}
		item := items[0]
		if !retarget.Concerns(item) || retarget.Strip(item) != nil || node.ResolveAliases(item) != nil {
			return
		}
		before, err := item.String()
		if err != nil || strings.Contains(before, api.AnnotationPrefix) {
			return // what people write of ours is refused, or left
		}
		read, err := yaml.Parse(before)
		if err != nil {
			return
		}
		if again, err := read.String(); err != nil || again != before {
			return // the library itself does not give it back
		}
		r := &report.Report{}
		apply(t, r, item)
		if r.Failed() {
			return
		}
		written := item.MustString()
		read, err = yaml.Parse(written)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, written)
		}
		if err := retarget.Strip(read); err != nil {
			t.Fatalf("what was written cannot be stripped: %v\n%s", err, written)
		}
		if after := read.MustString(); after != before {
			t.Errorf("is\n%s\nwas\n%s\nwritten as\n%s", after, before, written)
		}
		if apply(t, r, read); read.MustString() != written {
			t.Errorf("written again it is\n%s\nwas\n%s", read.MustString(), written)
		}
	})
}

// TestAttackOwnLabels: a policy that selects by the labels that a render writes selects pods without redirect rules as
// well, and opens no port of their apps.
func TestAttackOwnLabels(t *testing.T) {
	policy := func(selector string) []*yaml.RNode {
		return parse(t, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: {podSelector: "+selector+", ingress: [{ports: [{port: 8080}]}]}")
	}
	for selector, selects := range map[string]bool{
		"{matchExpressions: [{key: meshless.dev/package, operator: Exists}]}":                   true,
		"{matchExpressions: [{key: meshless.dev/package, operator: NotIn, values: [another]}]}": true,
		"{matchExpressions: [{key: meshless.dev/package, operator: DoesNotExist}]}":             false,
		"{matchLabels: {meshless.dev/package: another}}":                                        false,
	} {
		r, items := &report.Report{}, policy(selector)
		policies := apply(t, r, items...)
		if errors := r.Errors(); len(errors) > 0 {
			t.Errorf("%s: %v", selector, errors)
			continue
		}
		if got := strings.Contains(items[0].MustString(), api.DirectLabel); got != selects {
			t.Errorf("%s: lets go of the pods: %v\n%s", selector, got, items[0].MustString())
		}
		if got := openedIn(t, policies["web"]) == "TCP 30080"; got != selects {
			t.Errorf("%s: ours opens %q", selector, openedIn(t, policies["web"]))
		}
	}
	for _, selector := range []string{
		"{matchLabels: {meshless.dev/direct: deployment-web}}",
		"{matchExpressions: [{key: meshless.dev/direct, operator: Exists}]}",
		"{matchExpressions: [{key: meshless.dev/direct, operator: DoesNotExist}]}",
	} {
		r := &report.Report{}
		apply(t, r, policy(selector)...)
		if errors := r.Errors(); len(errors) != 1 || !strings.Contains(errors[0], "spec.podSelector") {
			t.Errorf("%s: %v", selector, errors)
		}
	}
}

// TestAttackNamespace: a policy without a namespace may be applied to any.
func TestAttackNamespace(t *testing.T) {
	const policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{}]}"
	r := &report.Report{}
	apply(t, r, parse(t, policy)...)
	if i := slices.IndexFunc(r.Findings(), func(f report.Finding) bool { return f.Field == "metadata.namespace" }); i < 0 {
		t.Error("no finding")
	}
}
