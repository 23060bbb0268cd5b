package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// said is what verify says of a text.
func said(t *testing.T, text string) string {
	t.Helper()
	r := &report.Report{}
	verify.Check(parse(t, text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
	var out strings.Builder
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What kubectl reads of aliases, merge keys and lists is what is judged.
func TestHidden(t *testing.T) {
	good := rendered(t)
	edit := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the rendered manifests hold no %q", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	const pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: prod}, spec: {containers: [{name: c, image: i}]}}"
	const spec = "    spec:\n      containers:\n      - name: app\n"
	for name, test := range map[string]struct{ text, want string }{
		"items by alias":     {good + "---\napiVersion: v1\nkind: List\nx: &a [" + pod + "]\nitems: *a\n", "pod prod/p: metadata.annotations: is not in the mesh"},
		"items by merge key": {good + "---\napiVersion: v1\nkind: List\n<<: {items: [" + pod + "]}\n", "pod prod/p: metadata.annotations: is not in the mesh"},
		"kind by alias":      {good + "---\napiVersion: v1\nmetadata: {name: p, namespace: prod, labels: {a: &ConfigMap Pod}}\nkind: *ConfigMap\nspec: {containers: [{name: c, image: i}]}\n", "pod prod/p: metadata.annotations: is not in the mesh"},
		"key by alias":       {good + "---\napiVersion: v1\nkind: List\nx: &a items\n*a : [" + pod + "]\n", "pod prod/p: metadata.annotations: is not in the mesh"},
		"kind in Base64":     {good + "---\napiVersion: v1\nkind: !!binary UG9k\nmetadata: {name: p, namespace: prod}\nspec: {containers: [{name: c, image: i}]}\n", "pod prod/p: metadata.annotations: is not in the mesh"},
		"key in Base64":      {good + "---\napiVersion: v1\nkind: ConfigMap\n!!binary a2luZA== : Pod\nmetadata: {name: p, namespace: prod}\n", `holds the key "a2luZA==" as !!binary`},
		"merge key last":     {edit(spec, "    spec:\n      hostNetwork: false\n      <<: {hostNetwork: true}\n      containers:\n      - name: app\n"), `deployment prod/web: holds the key "hostNetwork" before a merge key`},
		"merge key first":    {edit(spec, "    spec:\n      <<: {hostNetwork: true}\n      hostNetwork: false\n      containers:\n      - name: app\n"), ""},
		"merged hostNetwork": {edit(spec, "    spec:\n      <<: {hostNetwork: true}\n      containers:\n      - name: app\n"), "spec.template.spec.hostNetwork: is true"},
		"list by another name": {good + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: p, namespace: prod}\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: meshless-mesh, namespace: prod}, data: {mesh.yaml: x}}]\n",
			"configmap prod/p: items: is a list"},
		"aliases elsewhere": {good + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: p, namespace: prod}\ndata: {a: &x y, b: *x}\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(t, test.text); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}
