package manifest

import (
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// MembersSpec is the spec of a members Service (Service v1). It has no ports, which a headless Service need not have:
// it is there for its names and addresses alone. Pods that are not ready are in it, as gossip dials them.
func MembersSpec(pkg string) *yaml.Node {
	return node.Object("clusterIP", "None", "publishNotReadyAddresses", true, "selector", node.Object(api.PackageLabel, pkg))
}

// AliasSpec is the spec of the alias of a Service.
func AliasSpec(host string) *yaml.Node {
	return node.Object("externalName", host, "type", "ExternalName")
}

// AliasOf is the name of the Service whose alias an item is; "" where it is none.
func AliasOf(item *yaml.RNode) string {
	name, _, below := strings.Cut(node.Scalar(item.YNode(), "spec", "externalName"), ".")
	if !below || node.Scalar(item.YNode(), "spec", "type") != "ExternalName" {
		return ""
	}
	return name
}

// Aliased are the Services of the mesh that have an alias: all, where others share the authority. The pods of headless
// ones have it as well as the name of the members Service: CoreDNS 1.12.0 names such a pod by its host name alone.
func (m *Model) Aliased() (list []*Service) {
	for _, s := range m.Services {
		if m.SharedCA {
			list = append(list, s)
		}
	}
	return list
}
