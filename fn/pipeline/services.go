package pipeline

import (
	"path"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// writeServices ensures the Services by which DNS tells who is in the mesh: the members Service of each namespace, and
// the aliases.
func (o *output) writeServices(keep map[*yaml.RNode]bool) {
	members := byNamespace(o.model.State.Members)
	for _, namespace := range o.model.Namespaces() {
		item := members[namespace]
		keep[o.writeService(item, api.MembersName(o.model.Package), namespace, "members", manifest.MembersSpec(o.model.Package))] = true
	}
	aliases := map[[2]string]*yaml.RNode{} // by namespace and Service
	for _, item := range o.model.State.Aliases {
		aliases[[2]string{manifest.NamespaceOf(item), manifest.AliasOf(item)}] = item
	}
	for _, s := range o.model.Aliased() {
		name, item := api.AliasName(s.Name), aliases[[2]string{s.Namespace, s.Name}]
		keep[o.writeService(item, name, s.Namespace, strings.TrimPrefix(name, api.NamePrefix), manifest.AliasSpec(s.Host))] = true
	}
}

// writeService ensures one of them and returns it. It is derived, so its spec is ours as a whole; one that says the
// same keeps its bytes.
func (o *output) writeService(item *yaml.RNode, name, namespace, file string, spec *yaml.Node) *yaml.RNode {
	if item == nil {
		item = o.add("v1", "Service", path.Join(namespace, file+".yaml"))
	}
	o.setName(item, name, namespace)
	annotate(item, map[string]string{api.IdentityAnnotation: o.model.TrustDomain.IDString(), api.PackageAnnotation: o.model.Package})
	if !sameContent(node.Get(item.YNode(), "spec"), spec) {
		node.Set(item.YNode(), "spec", spec)
	}
	return item
}

// byNamespace are the first of the items of each namespace.
func byNamespace(items []*yaml.RNode) map[string]*yaml.RNode {
	first := map[string]*yaml.RNode{}
	for _, item := range items {
		if namespace := manifest.NamespaceOf(item); first[namespace] == nil {
			first[namespace] = item
		}
	}
	return first
}
