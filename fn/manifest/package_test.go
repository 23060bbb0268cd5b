package manifest_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshless-dev/meshless/internal/api"
)

// Names of what a render writes are labels, however long those are of which they are made.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, service := range []string{"a", strings.Repeat("a", 48), strings.Repeat("a", 49), strings.Repeat("a", 63), strings.Repeat("a", 40) + "-" + strings.Repeat("b", 22)} {
		name := api.AliasName(service)
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 || seen[name] {
			t.Errorf("the alias of %s is %s: %v", service, name, problems)
		}
		seen[name] = true
	}
	if name := api.MembersName(strings.Repeat("a", api.MaxPackage)); len(validation.IsDNS1123Label(name)) > 0 {
		t.Errorf("%s is no label", name)
	}
}

// The bundle of another package in the namespace is not taken for the package's own.
func TestNeighboursBundle(t *testing.T) {
	bundle := func(namespace, name string) string {
		return "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: meshless-bundle-" + name + ", namespace: " + namespace + ", annotations: {meshless.dev/identity: 'spiffe://cluster.local', meshless.dev/package: " + name + "}}, data: {ca.crt: x}}\n"
	}
	for text, good := range map[string]bool{
		bundle("a", "k7f3q"):                        true,
		bundle("a", "k7f3q") + bundle("b", "k7f3q"): true,
		bundle("a", "k7f3q") + bundle("a", "a2345"): false,
	} {
		_, r := build(t, workload("Deployment", "w", "app: w")+text, "")
		if r.Failed() == good {
			t.Errorf("%s: %v", text, r.Errors())
		}
	}
}

// A name that somebody wrote into state is checked before objects are named by it.
func TestPackageNameIsChecked(t *testing.T) {
	const state = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: a, annotations: {meshless.dev/identity: 'spiffe://cluster.local', meshless.dev/package: NAME}}, data: {ca.crt: x}}\n"
	for name, good := range map[string]bool{"k7f3q": true, "a.b": false, "A": false, "-": false, strings.Repeat("a", api.MaxPackage): true, strings.Repeat("a", api.MaxPackage+1): false} {
		_, r := build(t, workload("Deployment", "w", "app: w")+strings.Replace(state, "NAME", "'"+name+"'", 1), "")
		if r.Failed() == good {
			t.Errorf("%q: %v", name, r.Errors())
		}
	}
}
