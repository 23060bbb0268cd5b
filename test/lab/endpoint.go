//go:build linux

package lab

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// Endpoint is who stands behind a Service, as an EndpointSlice says.
type Endpoint struct {
	Pod      *Pod       // or
	IP4, IP6 netip.Addr // of somebody else
	hostname string     // under this Service
	ready    bool       // may be sent to, and is named
}

func (e Endpoint) ip(family int) netip.Addr {
	switch {
	case e.Pod != nil:
		return e.Pod.IP(family)
	case family == 4:
		return e.IP4
	}
	return e.IP6
}

// ips are the addresses that the endpoint has.
func (e Endpoint) ips() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{e.ip(4), e.ip(6)}, func(ip netip.Addr) bool { return !ip.IsValid() })
}

// SetEndpoints writes EndpointSlices of a Service, as an operator or an agent does: of one without selector, or beside
// those that the controller writes.
func (l *Lab) SetEndpoints(namespace, name string, to ...Endpoint) {
	l.tb.Helper()
	l.SetAllEndpoints(namespace, map[string][]Endpoint{name: to})
}

// SetAllEndpoints is SetEndpoints for many Services at once, by name.
func (l *Lab) SetAllEndpoints(namespace string, to map[string][]Endpoint) {
	l.tb.Helper()
	l.change(func() {
		for name, endpoints := range to {
			l.service(namespace, name).manual = endpoints
		}
	})
}

// Misdirect makes the Service lead to a pod that it does not select, its addresses and its names alike, as a mistaken
// or hostile route would; nil ends that.
func (l *Lab) Misdirect(namespace, name string, to *Pod) {
	l.tb.Helper()
	l.change(func() {
		l.service(namespace, name).misdirect = to
	})
}

// service is a Service that is there. The caller holds mu.
func (l *Lab) service(namespace, name string) *serviceState {
	l.tb.Helper()
	s := l.services[namespace+"/"+name]
	if s == nil {
		l.tb.Fatalf("lab: no Service %s/%s", namespace, name)
	}
	return s
}

// change changes what the cluster is like, and waits until its nodes and its name server know.
func (l *Lab) change(f func()) {
	l.tb.Helper()
	if err := l.tryChange(f); err != nil {
		l.tb.Fatalf("lab: %v", err)
	}
}

func (l *Lab) tryChange(f func()) error {
	revision, err := func() (int, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		f()
		err := l.syncServices()
		return l.revision, err
	}()
	if err != nil {
		return err
	}
	return l.awaitNames(revision)
}

// endpoints are who stands behind the Service, as the EndpointSlice controller finds them (kubernetes,
// pkg/controller/util/endpoint and k8s.io/endpointslice): pods with an address, ready where they are ready or the
// Service publishes those that are not. The caller holds mu.
func (l *Lab) endpoints(s *serviceState) []Endpoint {
	if s.misdirect != nil {
		return []Endpoint{{Pod: s.misdirect, ready: true, hostname: s.misdirect.hostnameIn(s)}}
	}
	var found []Endpoint
	for _, e := range s.manual {
		if e.ready = e.Pod == nil || e.Pod.ready; e.Pod == nil || e.Pod.reported {
			found = append(found, e)
		}
	}
	if len(s.Spec.Selector) == 0 {
		return found
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	for _, p := range l.pods {
		if p.Namespace == s.Namespace && p.reported && selector.Matches(labels.Set(p.labels)) {
			found = append(found, Endpoint{Pod: p, hostname: p.hostnameIn(s), ready: p.ready || s.Spec.PublishNotReadyAddresses})
		}
	}
	return found
}

// published are the endpoints that may be sent to, and that DNS names. The caller holds mu.
func (l *Lab) published(s *serviceState) []Endpoint {
	return slices.DeleteFunc(l.endpoints(s), func(e Endpoint) bool { return !e.ready })
}

// hostnameIn is the pod's host name under the Service, or "".
func (p *Pod) hostnameIn(s *serviceState) string {
	if p.subdomain == s.Name && p.Namespace == s.Namespace {
		return p.hostname
	}
	return ""
}
