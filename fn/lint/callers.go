package lint

import (
	"fmt"
	"strings"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// call is one port of a workload, as callers of one kind reach it.
type call struct {
	kind     manifest.CallerKind
	workload *manifest.Workload
	port     uint16
	tls      bool
}

// calls are the callers of one call: the first, and the objects that name any, each once.
type calls struct {
	call
	first   manifest.Caller
	objects map[report.Object]bool
}

// checkCallers warns of ports that somebody calls who may have no identity and is refused then, in one line for each
// port and kind of callers. It says which ports pass TLS on to the app because the API server calls them.
func checkCallers(m *manifest.Model, r *report.Report) {
	var order []*calls
	byCall := map[call]*calls{}
	for _, c := range m.Callers {
		key := call{c.Kind, c.Workload, c.Port, c.TLS}
		if byCall[key] == nil {
			byCall[key] = &calls{call: key, first: c, objects: map[report.Object]bool{}}
			order = append(order, byCall[key])
		}
		byCall[key].objects[manifest.Key(c.Object)] = true
	}
	for _, c := range order {
		switch passed := c.workload.Plan.PortMode(c.port, m.Spec.Inbound.Mode) == podplan.PortTLSPassthrough; {
		case c.kind == manifest.APIServer && passed:
			if !m.PassedBefore[c.workload.Place()].Contains(c.port) {
				c.sayPassed(r)
			}
		case refused(m, c.workload, c.port, c.tls):
			c.warn(m, r)
		}
	}
}

// sayPassed says that a port is open for TLS of the app's own.
func (c *calls) sayPassed(r *report.Report) {
	r.Info(c.workload.Object, c.workload.Field("metadata.annotations"), "port %d takes the app's own TLS beside mutual TLS, since the API server calls it (%s). To have mutual TLS only, annotate the pod template with %s: \"%d\"",
		c.port, c.namedBy(), api.StrictPortsAnnotation, c.port)
}

// warn warns that the callers may be refused.
func (c *calls) warn(m *manifest.Model, r *report.Report) {
	takes := "mutual TLS only"
	if c.workload.Plan.PortMode(c.port, m.Spec.Inbound.Mode) == podplan.PortTLSPassthrough {
		takes = "TLS only"
	}
	way := fmt.Sprintf("%s; once %s is in the mesh, with %s: \"%d\"", admit(c.port, c.tls), who(c.kind), api.StrictPortsAnnotation, c.port)
	service := c.first.Service
	if service == nil {
		r.Warn(c.workload.Object, c.field(), "port %d is %s, and takes %s: clients outside of the mesh are refused. %s", c.port, c.what(), takes, way)
		return
	}
	r.Warn(service.Object, fmt.Sprintf("spec.ports[%d]", c.first.Index), "port %d is %s, and %s takes %s there: clients outside of the mesh are refused. %s",
		service.Ports[c.first.Index].Port, c.what(), c.workload.Object, takes, way)
}

// field is where a workload's own annotation names the callers, or the pod template.
func (c *calls) field() string {
	if manifest.Key(c.first.Object) == manifest.Key(c.workload.Object) {
		return c.first.Field
	}
	return strings.TrimSuffix(c.workload.Field(""), ".")
}

// what says what the port is to its callers.
func (c *calls) what() string {
	switch c.kind {
	case manifest.Scraper:
		return "scraped by Prometheus (" + c.namedBy() + ")"
	case manifest.APIServer:
		return "called by the API server (" + c.namedBy() + ")"
	}
	return "a backend of " + c.namedBy()
}

// namedBy names the object, or the first of them and how many more there are. Who asks to be scraped names itself.
func (c *calls) namedBy() string {
	name := c.first.Object.String()
	if strings.HasSuffix(c.first.Field, "["+manifest.ScrapeAnnotation+"]") {
		name = "annotation " + manifest.ScrapeAnnotation
	}
	switch more := len(c.objects) - 1; more {
	case 0:
		return name
	case 1:
		return name + " and one more"
	default:
		return fmt.Sprintf("%s and %d more", name, more)
	}
}

// who is the caller as the way out names it.
func who(kind manifest.CallerKind) string {
	if kind == manifest.Router {
		return "the ingress controller or gateway"
	}
	return string(kind)
}
