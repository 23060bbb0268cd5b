package manifest

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// ForeignPolicy is an object that tells another mesh whom to let in, or what to encrypt.
type ForeignPolicy struct {
	Mesh   string // Istio, Linkerd, …
	Object report.Object
	Node   *yaml.RNode
}

// foreignPolicies are the groups of other meshes, and the kinds of them that decide who is let in or what is encrypted.
var foreignPolicies = map[string]struct {
	mesh  string
	kinds []string
}{
	"security.istio.io":    {"Istio", []string{"PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication"}},
	"networking.istio.io":  {"Istio", []string{"DestinationRule"}},
	"policy.linkerd.io":    {"Linkerd", []string{"Server", "ServerAuthorization", "AuthorizationPolicy", "MeshTLSAuthentication", "NetworkAuthentication", "HTTPRoute", "EgressNetwork"}},
	"consul.hashicorp.com": {"Consul", []string{"ServiceIntentions"}},
	"kuma.io":              {"Kuma", []string{"MeshTrafficPermission", "TrafficPermission", "MeshTLS"}},
	"access.smi-spec.io":   {"SMI", []string{"TrafficTarget"}},
}

// readSurroundings reads what else decides about the pods of the mesh. What cannot be read is left to the API server.
func (m *Model) readSurroundings(items []*yaml.RNode) {
	silent := &report.Report{}
	for _, item := range items {
		group, _, _ := strings.Cut(item.GetApiVersion(), "/")
		object, foreign := report.ObjectOf(item), foreignPolicies[group]
		switch {
		case IsLocalConfig(item):
		case slices.Contains(foreign.kinds, object.Kind):
			m.ForeignPolicies = append(m.ForeignPolicies, ForeignPolicy{foreign.mesh, object, item})
		case object.APIVersion == "v1" && object.Kind == "ResourceQuota":
			if q, ok := decode[corev1.ResourceQuota](item, item, "", silent); ok {
				m.Quotas = append(m.Quotas, q)
			}
		case group == "node.k8s.io" && object.Kind == "RuntimeClass":
			if m.RuntimeHandlers == nil {
				m.RuntimeHandlers = map[string]string{}
			}
			m.RuntimeHandlers[object.Name] = node.Scalar(item.YNode(), "handler")
		case object.APIVersion == "v1" && object.Kind == "LimitRange":
			if l, ok := decode[corev1.LimitRange](item, item, "", silent); ok {
				m.LimitRanges = append(m.LimitRanges, l)
			}
		}
	}
}

// Text is the scalar at a path of the policy; "" where there is none.
func (p ForeignPolicy) Text(path ...string) string { return node.Scalar(p.Node.YNode(), path...) }
