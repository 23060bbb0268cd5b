package policy_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/fn/report"
)

// prefixed are the workloads of an overlay with a namePrefix.
const prefixed = `
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: stg-pg, namespace: shop}, spec: {template: {metadata: {labels: {app: pg}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: stg-orders, namespace: shop}, spec: {template: {metadata: {labels: {app: orders}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: stg-search, namespace: find}, spec: {template: {metadata: {labels: {app: search}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: old, namespace: shop}, spec: {template: {metadata: {labels: {app: old}, annotations: {meshless.dev/inject: disabled}}, spec: {containers: [{name: c, image: i}]}}}}
`

// TestRulesForNobody: a rule that opens no workload is an error that offers what may have been meant. One that lets
// nobody in closes its workload and is warned of.
func TestRulesForNobody(t *testing.T) {
	const field, guess = "mutualtls: spec.authorization.rules[0]", ": names are those after namePrefix and nameSuffix"
	for rule, want := range map[string]string{
		"{to: {kind: StatefulSet, name: stg-pg}, from: [{name: stg-orders}]}":         "",
		"{to: {kind: StatefulSet, name: pg}, from: [{name: stg-orders}]}":             "error: " + field + `.to: selects no workload of the mesh: there is no StatefulSet "pg"; there is "stg-pg"` + guess,
		"{to: {name: stg-orderz}, from: [{name: stg-pg}]}":                            "error: " + field + `.to: selects no workload of the mesh: there is no workload "stg-orderz"; there is Deployment "stg-orders"` + guess,
		"{to: {kind: Deployment, name: stg-pg}, from: [{name: stg-pg}]}":              "error: " + field + `.to: selects no workload of the mesh: there is no Deployment "stg-pg"; there is StatefulSet "stg-pg"` + guess,
		"{to: {name: search, namespace: shop}, from: [{name: stg-pg}]}":               "error: " + field + `.to: selects no workload of the mesh: there is no workload "search"; there is StatefulSet "stg-pg", Deployment "stg-orders"`,
		"{to: {name: stg-search, namespace: shop}, from: [{name: stg-pg}]}":           "error: " + field + `.to: selects no workload of the mesh: there is no workload "stg-search"; there is Deployment "stg-search" in namespace "find"` + guess,
		"{to: {name: old}, from: [{name: stg-pg}]}":                                   "error: " + field + ".to: selects no workload of the mesh: deployment shop/old is not in it",
		"{to: {labelSelector: {matchLabels: {a: b}}}, from: [{name: stg-pg}]}":        "error: " + field + ".to: selects no workload of the mesh. A rule for what may be missing says optional: true",
		"{to: {name: pg}, optional: true, from: [{name: stg-orders}]}":                "info: " + field + ".to: selects no workload of the mesh",
		"{to: {name: stg-pg}, from: [{name: orders}]}":                                "warning: " + field + `.from: selects no workload of the mesh (without a namespace: of namespace "shop"), so the rule opens nothing of statefulset shop/stg-pg: there is no workload "orders"; there is Deployment "stg-orders"` + guess,
		"{to: {name: stg-pg}, optional: true, from: [{name: orders}]}":                "info: " + field + ".from: selects no workload",
		"{to: {name: stg-pg}, from: [{name: stg-orders}, {name: stg-search}]}":        "warning: " + field + `.from[1]: selects no workload of the mesh (without a namespace: of that of the workload): there is no workload "stg-search"; there is Deployment "stg-search" in namespace "find"` + guess,
		"{to: {name: stg-pg}, from: [{spiffeID: 'spiffe://cluster.local/ns/a/*/*'}]}": "",
	} {
		t.Run(rule, func(t *testing.T) {
			got := compiled(t, rule)
			if (want == "") != (got == "") || !strings.Contains(got, want) || strings.Count(got, "\n") > 1 {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

// compiled is what a rule for the prefixed workloads makes people read.
func compiled(t *testing.T, rule string) string {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(prefixed), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS, spec: {authorization: {rules: [" + rule + "]}}}"))
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	policies := policy.Compile(manifest.Build(items, config.Spec, r), r)
	if r.Failed() && policies != nil {
		t.Error("there are policies after an error")
	}
	var said strings.Builder
	if err := r.WriteText(&said); err != nil {
		t.Fatal(err)
	}
	return said.String()
}
