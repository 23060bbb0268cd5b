package lint

import (
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// warnForeignPolicies warns of objects that tell another mesh whom to let in, or what to encrypt: nothing here follows
// them, and whoever they shut out would be let in. Those of namespaces that only hold workloads outside of the mesh are
// another mesh's to follow.
func warnForeignPolicies(m *manifest.Model, r *report.Report) {
	if len(m.Workloads) == 0 {
		return
	}
	inside, outside := map[string]bool{}, map[string]bool{}
	for _, w := range m.Workloads {
		inside[w.Namespace] = true
	}
	for _, w := range m.Outside {
		outside[w.Namespace] = true
	}
	for _, p := range m.ForeignPolicies {
		namespace := manifest.EffectiveNamespace(p.Object)
		if what, field := meaning(p); what != "" && (inside[namespace] || !outside[namespace]) {
			r.Warn(p.Object, field, "is %s's and has no effect here: %s", p.Mesh, what)
		}
	}
}

const rulesInstead = "write into spec.authorization.rules who may connect, then take it out"

// meaning is what does not happen since nobody follows a policy, with the way out, and the field that says it; "" where
// nothing is lost.
func meaning(p manifest.ForeignPolicy) (what, field string) {
	switch p.Object.Kind {
	case "PeerAuthentication":
		mode := p.Text("spec", "mtls", "mode")
		if mode == "" || strings.EqualFold(mode, "STRICT") {
			return "spec.inbound.mode of the config, which is Strict unless it says otherwise, and annotations of pod templates say which ports take mutual TLS only; take it out", "spec"
		}
		return "mtls mode " + mode + " opens nothing; clients without an identity are let in by meshless.dev/permissive-ports. Say it there, then take it out", "spec.mtls.mode"
	case "AuthorizationPolicy":
		switch action := p.Text("spec", "action"); strings.ToUpper(action) {
		case "AUDIT":
			return "nothing is recorded for it, and the access log of the proxy names every peer; take it out", "spec.action"
		case "DENY":
			return "whom it denies is let in unless the rules leave them out; " + rulesInstead, "spec.action"
		}
	case "RequestAuthentication":
		return "no proxy reads tokens of requests; let the app verify them, then take it out", "spec"
	case "DestinationRule":
		field := clientTLS(p)
		if field == "" {
			return "", ""
		}
		return "no proxy makes TLS for the app towards destinations outside of the mesh, so what the app sends in plaintext leaves in plaintext; let the app call by TLS, then take it out", field

	}
	return "whom it shuts out is let in unless the rules leave them out; " + rulesInstead, "spec"
}

// clientTLS is the first field of a DestinationRule by which a sidecar of Istio makes TLS; "" where there is none.
func clientTLS(p manifest.ForeignPolicy) string {
	spec := node.Get(p.Node.YNode(), "spec")
	field := policyTLS(node.Get(spec, "trafficPolicy"), "spec.trafficPolicy")
	subsets := node.Get(spec, "subsets")
	if field != "" || subsets == nil {
		return field
	}
	for _, subset := range subsets.Content {
		if policyTLS(node.Get(subset, "trafficPolicy"), "") != "" {
			return "spec.subsets"
		}
	}
	return ""
}

func policyTLS(policy *yaml.Node, field string) string {
	makes := func(tls *yaml.Node) bool {
		mode := node.Scalar(tls, "mode")
		return strings.EqualFold(mode, "SIMPLE") || strings.EqualFold(mode, "MUTUAL")
	}
	if makes(node.Get(policy, "tls")) {
		return report.Below(field, "tls")
	}
	if ports := node.Get(policy, "portLevelSettings"); ports != nil {
		for _, port := range ports.Content {
			if makes(node.Get(port, "tls")) {
				return report.Below(field, "portLevelSettings")
			}
		}
	}
	return ""
}
