package manifest

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// unexplained is a Service in a namespace of the mesh of which the input does not tell who is behind it.
type unexplained struct {
	service  *Service
	selector map[string]string
	partly   *Workload // of the mesh, with a label of the selector; nil where there is none
}

// waysOut are what to do with a Service of which nobody knows who is behind it.
const waysOut = "Clients demand mutual TLS there, or try it first. If workloads of the mesh are meant, name them in the annotation " + api.WorkloadsAnnotation +
	" of the Service; if pods outside of it are, name the Service in spec.outbound.plaintextServices of the config"

// WarnUnexplained warns of Services and addresses in namespaces of the mesh that the input does not explain. It is
// never silent about them: proxies would dial somebody in the mesh as if he were outside, or the other way round.
func (m *Model) WarnUnexplained(services []corev1.Service, items []*yaml.RNode, r *report.Report) {
	known := map[string]bool{}
	for _, s := range m.Services {
		if len(s.guessed) > 0 && m.news(s) {
			r.Info(s.Object, "spec.selector", "is taken to select %s: its pods have the other labels, and no template of the namespace carries %s. If somebody else is meant, name them in the annotation %s, "+
				"or the Service in spec.outbound.plaintextServices of the config", objects(s.Workloads), strings.Join(s.guessed, ", "), api.WorkloadsAnnotation)
		}
	}
	for _, u := range m.unexplained {
		known[u.service.short()] = true
		switch {
		case len(u.selector) == 0:
			r.Warn(u.service.Object, "spec.selector", "is missing, so nobody knows who is behind it. %s", waysOut)
		case u.partly != nil:
			r.Warn(u.service.Object, "spec.selector", "selects no workload of the input, and %s has some of its labels: whether its pods get the others at run time, nobody knows. %s", u.partly.Object, waysOut)
		default:
			r.Warn(u.service.Object, "spec.selector", "selects no workload of the input, as where an operator makes the pods: nobody knows whether they are in the mesh. %s", waysOut)
		}
	}
	for _, s := range services {
		if _, said := s.Annotations[api.WorkloadsAnnotation]; said {
			known[s.Name+"."+EffectiveNamespace(report.Object{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace})] = true
		}
	}
	m.warnEndpoints(items, known, r)
}

// news tells whether no certificate names a Service yet, as at the first render that knows who is behind it. What was
// said once is not said at every render, and where there is no state, as in verify, nothing is new.
func (m *Model) news(s *Service) bool {
	if m.State.Leaves == nil {
		return false
	}
	for _, w := range s.Workloads {
		id := w.ID.String()
		if secret := m.State.Leaves[id]; secret != nil {
			certificates, err := svid.ParseCertificates([]byte(node.SecretData(secret)[api.LeafFile]))
			if err == nil && slices.Contains(certificates[0].DNSNames, s.Host) {
				return false
			}
		}
		if item := m.State.Certificates[id]; item != nil {
			names := node.Get(item.YNode(), "spec", "dnsNames")
			if names != nil && slices.ContainsFunc(names.Content, func(n *yaml.Node) bool { return n.Value == s.Host }) {
				return false
			}
		}
		if w.Overrides.TLSSecret != "" {
			return false
		}
	}
	return true
}

// isEndpoints tells whether an item lists addresses of a Service by hand.
func isEndpoints(item *yaml.RNode) bool {
	return item.GetApiVersion() == "v1" && item.GetKind() == "Endpoints" || item.GetApiVersion() == "discovery.k8s.io/v1" && item.GetKind() == "EndpointSlice"
}

// warnEndpoints warns of addresses that the input itself puts behind a Service, unless the Service is explained or
// known to be unexplained.
func (m *Model) warnEndpoints(items []*yaml.RNode, known map[string]bool, r *report.Report) {
	inMesh := m.meshNamespaces()
	for _, item := range items {
		if !isEndpoints(item) {
			continue
		}
		object, field := report.ObjectOf(item), "metadata.name"
		service := object.Name
		if object.Kind == "EndpointSlice" {
			service, field = item.GetLabels()["kubernetes.io/service-name"], "metadata.labels[kubernetes.io/service-name]"
		}
		name := service + "." + EffectiveNamespace(object)
		if !inMesh[EffectiveNamespace(object)] || known[name] || slices.Contains(m.OutsideServices, name) {
			continue
		}
		r.Warn(object, field, "puts addresses behind Service %q, and nobody knows whose they are. %s", service, waysOut)
	}
}

// refuseContradictions refuses to call a Service plaintext whose workloads are in the mesh: they refuse plaintext.
func (m *Model) refuseContradictions(r *report.Report) {
	at := map[string]int{}
	for i, name := range m.Spec.Outbound.PlaintextServices {
		at[name] = i
	}
	slices.Sort(m.inMesh)
	for _, name := range m.inMesh {
		r.Error(r.Config(), fmt.Sprintf("spec.outbound.plaintextServices[%d]", at[name]), "%s leads to workloads of the mesh, which demand mutual TLS: take it out. Ports that are to take plaintext are said on the workload (%s)",
			name, api.PermissivePortsAnnotation)
	}
}

func objects(workloads []*Workload) string {
	var names []string
	for _, w := range workloads {
		names = append(names, w.Object.String())
	}
	return strings.Join(names, " and ")
}
