package verify

import (
	"cmp"
	"maps"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// ofOurs holds the Services by which DNS tells who is in the mesh against what a render writes: one that is missing
// hides pods, and one too many makes a mesh destination of somebody else's.
func (c *checker) ofOurs(first meshMap, sides manifest.Sides) {
	want := map[report.Object]*yaml.Node{}
	add := func(namespace, name string, spec *yaml.Node) {
		want[manifest.Key(report.Object{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name})] = spec
	}
	for _, namespace := range sides.Namespaces() {
		add(namespace, api.MembersName(first.mesh.Package), manifest.MembersSpec(first.mesh.Package))
	}
	for _, s := range sides.Model.Aliased() {
		add(s.Namespace, api.AliasName(s.Name), manifest.AliasSpec(s.Host))
	}
	for _, item := range c.services {
		object := report.ObjectOf(item)
		spec := want[manifest.Key(object)]
		if spec == nil {
			c.report.Error(object, "metadata.name", "is a Service of meshless that the manifests do not ask for; render the whole package again")
			continue
		}
		delete(want, manifest.Key(object))
		c.service(item, spec, first.mesh.TrustDomain, first.mesh.Package)
	}
	missing := slices.SortedFunc(maps.Keys(want), func(a, b report.Object) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, object := range missing {
		object.APIVersion = "v1" // of which a key has the group alone
		c.report.Error(object, "", "is missing: by it proxies tell who is in the mesh; render the whole package again")
	}
	c.sharedAlike(first)
}

func (c *checker) service(item *yaml.RNode, spec *yaml.Node, trustDomain, pkg string) {
	object := report.ObjectOf(item)
	c.shaped(item, shape{apiVersion: "v1", name: object.Name, fields: []string{"spec"}})
	c.ofPackage(item, pkg)
	if have, want := item.GetAnnotations()[api.IdentityAnnotation], "spiffe://"+trustDomain; have != want {
		c.report.Error(object, report.Annotation(api.IdentityAnnotation), "is %q, and must be %q", have, want)
	}
	c.compareSpec(item, spec, "")
}

// compareSpec reports where the spec of an object is not as a render writes it. Why goes behind what differs.
func (c *checker) compareSpec(item *yaml.RNode, spec *yaml.Node, why string) {
	object := report.ObjectOf(item)
	have, errHave := node.Values(item.YNode())
	want, errWant := node.Values(spec)
	if errHave != nil || errWant != nil {
		c.report.Error(object, "spec", "cannot be compared")
		return
	}
	whole, _ := have.(map[string]any)
	for _, d := range compare("spec", whole["spec"], want) {
		c.report.Error(object, d.path, "%s%s; render the whole package again", d, why)
	}
}

// sharedAlike reports bundles that say otherwise than the maps whether other packages have the same authority.
func (c *checker) sharedAlike(first meshMap) {
	for _, namespace := range slices.Sorted(maps.Keys(c.bundleObjects)) {
		item, want := c.bundleObjects[namespace], ""
		if first.mesh.SharedCA {
			want = "true"
		}
		if have := item.GetAnnotations()[api.SharedAnnotation]; have != want {
			c.report.ErrorIn(item, report.Annotation(api.SharedAnnotation), "is %q, and must be %q as the mesh map says; render the whole package again", have, want)
		}
	}
	if len(c.bundleObjects) == 0 && !first.mesh.SharedCA {
		c.report.Error(first.object, report.Data(api.MeshFile), "sharedCA is missing: where cert-manager issues, others have the same authority; render the whole package again")
	}
}
