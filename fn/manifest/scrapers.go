package manifest

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// podPort is a port of a pod, by its number or its name; 0 where there is none.
func podPort(w *Workload, port string) uint16 {
	if number, err := strconv.ParseUint(port, 10, 16); err == nil {
		return uint16(number)
	}
	return w.Port(port)
}

// ScrapeAnnotation is that by which pods and Services ask a Prometheus to scrape them, a convention of the example
// configuration of Prometheus.
const ScrapeAnnotation = "prometheus.io/scrape"

// Annotations beside it.
const (
	scrapePortAnnotation   = "prometheus.io/port"
	scrapeSchemeAnnotation = "prometheus.io/scheme"
)

// readScrapeAnnotations adds whoever scrapes what asks for it. Without a port that is every port.
func (c *callerReader) readScrapeAnnotations() {
	for _, w := range c.model.Workloads {
		if w.Pod.Annotations[ScrapeAnnotation] != "true" {
			continue
		}
		who := caller{kind: Scraper, object: w.Object, field: w.Field(report.Annotation(ScrapeAnnotation)), tls: w.Pod.Annotations[scrapeSchemeAnnotation] == "https"}
		if port := w.Pod.Annotations[scrapePortAnnotation]; port != "" {
			c.add(who, nil, 0, w, podPort(w, port))
			continue
		}
		for _, x := range w.Containers() {
			for _, p := range x.Ports {
				if IsTCP(p.Protocol) {
					c.add(who, nil, 0, w, uint16(p.ContainerPort))
				}
			}
		}
	}
	for _, s := range c.model.Services {
		annotations := c.metadata[Key(s.Object)].Annotations
		if annotations[ScrapeAnnotation] != "true" {
			continue
		}
		who := caller{kind: Scraper, object: s.Object, field: report.Annotation(ScrapeAnnotation), tls: annotations[scrapeSchemeAnnotation] == "https"}
		port := annotations[scrapePortAnnotation]
		c.callService(who, s, func(p corev1.ServicePort, w *Workload) bool {
			return port == "" || strconv.Itoa(int(p.Port)) == port || strconv.Itoa(int(TargetPort(p, w))) == port
		})
	}
}

// monitor is what a ServiceMonitor or a PodMonitor says of whom it selects.
type monitor struct {
	Spec struct {
		Selector          metav1.LabelSelector `json:"selector"`
		NamespaceSelector struct {
			Any        bool     `json:"any"`
			MatchNames []string `json:"matchNames"`
		} `json:"namespaceSelector"`
		Endpoints           []endpoint `json:"endpoints"`
		PodMetricsEndpoints []endpoint `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

// endpoint names a port: of a Service by Port, of a pod by PortNumber or TargetPort, and in a PodMonitor by Port too.
type endpoint struct {
	Port       string              `json:"port"`
	PortNumber *int32              `json:"portNumber"`
	TargetPort *intstr.IntOrString `json:"targetPort"`
	Scheme     string              `json:"scheme"`
}

// namespaces are those in which the monitor selects; its own where it names none.
func (m *monitor) namespaces(own string, all []string) []string {
	switch s := m.Spec.NamespaceSelector; {
	case s.Any:
		return all
	case len(s.MatchNames) > 0:
		return slices.Compact(slices.Sorted(slices.Values(s.MatchNames)))
	}
	return []string{own}
}

// matches tells whether the endpoint is a port of a Service. Prometheus goes by the name of the port, or by the pod's.
func (e endpoint) matches(p corev1.ServicePort, w *Workload) bool {
	switch {
	case e.Port != "":
		return p.Name == e.Port
	case e.TargetPort != nil:
		return TargetPort(p, w) == podPort(w, e.TargetPort.String())
	}
	return true
}

// podPort is the port of a pod, by its number or its name.
func (e endpoint) podPort() string {
	switch {
	case e.Port != "":
		return e.Port
	case e.PortNumber != nil:
		return strconv.Itoa(int(*e.PortNumber))
	case e.TargetPort != nil:
		return e.TargetPort.String()
	}
	return ""
}

// readMonitor adds a Prometheus of the Prometheus operator.
func (c *callerReader) readMonitor(item *yaml.RNode) {
	object := report.ObjectOf(item)
	var monitor monitor
	if err := node.Decode(item, &monitor); err != nil {
		field, message := node.FieldOf(err)
		c.unreadable(item, field, message)
		return
	}
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil {
		c.unreadable(item, "spec.selector", err.Error())
		return
	}
	for _, namespace := range monitor.namespaces(EffectiveNamespace(object), c.model.Namespaces()) {
		c.callSelected(monitor, selector, object, namespace)
	}
}

// callSelected adds the callers of what a monitor selects in a namespace.
func (c *callerReader) callSelected(m monitor, selector labels.Selector, object report.Object, namespace string) {
	for i, e := range m.Spec.Endpoints {
		who := caller{kind: Scraper, object: object, field: fmt.Sprintf("spec.endpoints[%d]", i), tls: e.Scheme == "https"}
		for _, s := range c.inNamespace[namespace].services {
			if selector.Matches(labels.Set(c.metadata[Key(s.Object)].Labels)) {
				c.callService(who, s, e.matches)
			}
		}
	}
	for i, e := range m.Spec.PodMetricsEndpoints {
		who := caller{kind: Scraper, object: object, field: fmt.Sprintf("spec.podMetricsEndpoints[%d]", i), tls: e.Scheme == "https"}
		for _, w := range c.inNamespace[namespace].workloads {
			if selector.Matches(labels.Set(w.Pod.Labels)) {
				c.add(who, nil, 0, w, podPort(w, e.podPort()))
			}
		}
	}
}
