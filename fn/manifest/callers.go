package manifest

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// CallerKind is who calls a port that another manifest names.
type CallerKind string

// The kinds of callers. The API server never has an identity of the mesh; the others have one where they are in it,
// which the manifests of one package do not say.
const (
	APIServer CallerKind = "the API server"
	Router    CallerKind = "an ingress controller, a gateway or a router"
	Scraper   CallerKind = "Prometheus"
)

// Caller is a client of one port of one workload of the mesh, as another manifest or an annotation names it.
type Caller struct {
	Kind     CallerKind
	Object   report.Object // that says so
	Field    string        // in it
	TLS      bool          // it speaks TLS of its own to the app
	Service  *Service      // through which it calls; nil where it calls pods
	Index    int           // of the port in Service.Ports
	Workload *Workload
	Port     uint16 // of the pod
}

// readCallers finds the callers that the items name. Services are those of the items, mesh or not. An object that
// cannot be read is said, and names nobody.
func (m *Model) readCallers(items []*yaml.RNode, services []corev1.Service, r *report.Report) {
	c := &callerReader{model: m, report: r, services: map[report.Object]*Service{}, metadata: map[report.Object]metav1.ObjectMeta{}, inNamespace: map[string]called{}, unread: map[string]bool{}}
	for _, s := range m.Services {
		c.services[Key(s.Object)] = s
		in := c.inNamespace[s.Namespace]
		in.services = append(in.services, s)
		c.inNamespace[s.Namespace] = in
	}
	for _, w := range m.Workloads {
		in := c.inNamespace[w.Namespace]
		in.workloads = append(in.workloads, w)
		c.inNamespace[w.Namespace] = in
	}
	for _, s := range services {
		c.metadata[serviceKey(s.Namespace, s.Name)] = s.ObjectMeta
	}
	for _, item := range items {
		group, _, _ := strings.Cut(item.GetApiVersion(), "/")
		key := group + "/" + item.GetKind()
		source, known := callerSources[key]
		isMonitor := key == "monitoring.coreos.com/ServiceMonitor" || key == "monitoring.coreos.com/PodMonitor"
		switch {
		case !known && !isMonitor, IsLocalConfig(item):
		case isMonitor:
			c.readMonitor(item)
		default:
			c.read(item, source)
		}
	}
	c.readScrapeAnnotations()
}

func serviceKey(namespace, name string) report.Object {
	return Key(report.Object{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name})
}

// APIServerPorts are the ports of each workload that the API server calls, and on which the app's own TLS is passed on
// for that: no annotation and no exclusion says otherwise.
func (m *Model) APIServerPorts() map[*Workload]netset.Ports {
	ports := map[*Workload]netset.Ports{}
	for _, c := range m.Callers {
		if c.Kind != APIServer {
			continue
		}
		w := c.Workload.Plan.Workload
		w.TLSPassthroughPorts = nil
		if !w.StrictPorts.Contains(c.Port) && !c.Workload.Plan.Redirect.ExcludeInboundPorts.Contains(c.Port) && w.PortMode(c.Port, "") == podplan.PortStrict {
			ports[c.Workload] = ports[c.Workload].Union(netset.PortsOf(c.Port))
		}
	}
	return ports
}

// passAPIServer tells the workloads which ports the API server calls.
func (m *Model) passAPIServer() {
	for w, ports := range m.APIServerPorts() {
		w.Plan.Workload.TLSPassthroughPorts = w.Plan.Workload.TLSPassthroughPorts.Union(ports)
	}
}

// PassedBefore are the ports on which an earlier render of a workload passes TLS of the app's own: what is so already
// is not said again.
func PassedBefore(item *yaml.RNode, templatePath []string) netset.Ports {
	annotation := node.Scalar(node.At(item.YNode(), templatePath...), "metadata", "annotations", api.WorkloadAnnotation)
	told, err := podplan.ParseWorkload([]byte(annotation))
	if err != nil {
		return nil
	}
	return told.TLSPassthroughPorts
}

// Reread is the model of rendered workloads, whose plans are known, for what is said of callers and of other meshes.
// What is wrong with the items themselves, others report.
func Reread(items []*yaml.RNode, inside, outside []*Workload, m Model) *Model {
	r := &report.Report{}
	m.Workloads, m.Outside, m.NamespaceObjects = inside, outside, map[string]corev1.Namespace{}
	var services []corev1.Service
	for _, item := range items {
		if IsLocalConfig(item) || item.GetApiVersion() != "v1" {
			continue
		}
		switch item.GetKind() {
		case "Service":
			if s, ok := decode[corev1.Service](item, item, "", r); ok && s.Annotations[api.IdentityAnnotation] == "" {
				services = append(services, s)
			}
		case "Namespace":
			if n, ok := decode[corev1.Namespace](item, item, "", r); ok {
				m.NamespaceObjects[n.Name] = n
			}
		}
	}
	services = append(services, m.declaredServices()...)
	m.addServices(services, r)
	m.readCallers(items, services, r)
	m.readSurroundings(items)
	return &m
}

// callerReader collects the callers of a model.
type callerReader struct {
	model    *Model
	report   *report.Report
	services map[report.Object]*Service          // of the mesh, by their keys
	metadata map[report.Object]metav1.ObjectMeta // of all Services, by their keys
	unread   map[string]bool                     // objects and fields of which it was said

	inNamespace map[string]called
}

// called are the Services and the workloads of the mesh in one namespace.
type called struct {
	services  []*Service
	workloads []*Workload
}

// caller is what one place of a manifest says of who calls.
type caller struct {
	kind   CallerKind
	object report.Object
	field  string
	tls    bool
}

// unreadable warns of an object that names callers, and of which none can be read.
func (c *callerReader) unreadable(item *yaml.RNode, field, why string) {
	key := report.ObjectOf(item).String() + " " + field
	if c.unread[key] {
		return // other paths begin there, too
	}
	c.unread[key] = true
	c.report.Warn(report.ObjectOf(item), field, "cannot be read, so it is not known which ports of the mesh it calls: %s", why)
}

// callService adds the callers of those ports of a Service that match. A target that no container has is none.
func (c *callerReader) callService(who caller, s *Service, matches func(corev1.ServicePort, *Workload) bool) {
	if s == nil {
		return // outside of the mesh, or of another package
	}
	for i, p := range s.Ports {
		if !IsTCP(p.Protocol) {
			continue
		}
		for _, w := range s.Workloads {
			if matches(p, w) {
				c.add(who, s, i, w, TargetPort(p, w))
			}
		}
	}
}

// callPort adds the callers of a port of a Service, by its number or its name; "" is every one.
func (c *callerReader) callPort(who caller, s *Service, port string) {
	c.callService(who, s, func(p corev1.ServicePort, _ *Workload) bool {
		return port == "" || strconv.Itoa(int(p.Port)) == port || p.Name == port
	})
}

func (c *callerReader) add(who caller, s *Service, index int, w *Workload, port uint16) {
	if port == 0 || slices.Contains(api.ReservedPorts, int(port)) {
		return
	}
	c.model.Callers = append(c.model.Callers, Caller{Kind: who.kind, Object: who.object, Field: who.field, TLS: who.tls, Service: s, Index: index, Workload: w, Port: port})
}
