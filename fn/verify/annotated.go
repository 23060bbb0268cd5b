package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// overrideField is a part of a plan that an annotation says, as a text in its one spelling; "" is nothing.
type overrideField struct {
	annotation string
	of         func(*podplan.Plan) string
	parse      func(text string) (fmt.Stringer, error)
	common     func(a, b string) string // nil where the config cannot say it
}

var overrideFields = []overrideField{
	{api.PermissivePortsAnnotation, func(p *podplan.Plan) string { return p.Workload.PermissivePorts.String() }, parsed(netset.ParsePorts), nil},
	{api.TLSPassthroughPortsAnnotation, func(p *podplan.Plan) string { return p.Workload.TLSPassthroughPorts.String() }, parsed(netset.ParsePorts), nil},
	{api.StrictPortsAnnotation, func(p *podplan.Plan) string { return p.Workload.StrictPorts.String() }, parsed(netset.ParsePorts), nil},
	{api.TransparentPortsAnnotation, func(p *podplan.Plan) string { return p.Redirect.TransparentPorts.String() }, parsed(netset.ParsePorts), nil},
	{api.ProxyProtocolPortsAnnotation, func(p *podplan.Plan) string { return p.Workload.ProxyProtocolPorts.String() }, parsed(netset.ParsePorts), nil},
	{api.ExcludeInboundPortsAnnotation, func(p *podplan.Plan) string { return p.Redirect.ExcludeInboundPorts.String() }, parsed(netset.ParsePorts), commonPorts},
	{api.ExcludeOutboundPortsAnnotation, func(p *podplan.Plan) string { return p.Redirect.ExcludeOutboundPorts.String() }, parsed(netset.ParsePorts), commonPorts},
	{api.ExcludeOutboundCIDRsAnnotation, func(p *podplan.Plan) string { return p.Redirect.ExcludeOutboundCIDRs.String() }, parsed(netset.ParsePrefixes), commonParts},
	{api.ExcludeInboundInterfacesAnnotation, func(p *podplan.Plan) string { return p.Redirect.ExcludeInboundInterfaces.String() }, parsed(netset.ParseInterfaces), commonParts},
	{api.ExcludeOutboundInterfacesAnnotation, func(p *podplan.Plan) string { return p.Redirect.ExcludeOutboundInterfaces.String() }, parsed(netset.ParseInterfaces), commonParts},
	{api.ExcludeOutboundUIDsAnnotation, func(p *podplan.Plan) string { return p.Redirect.ExcludeOutboundUIDs.String() }, parsed(netset.ParseUIDs), commonParts},
}

// annotated reports workloads that are told something else than their annotations and the config ask for. What the
// config says, all workloads share, so what one has beyond that its own annotation must say. Called are the ports of
// each workload that the API server calls, which no annotation need say.
func (c *checker) annotated(called map[*pod]netset.Ports) {
	for _, w := range overrideFields {
		shared := ""
		for i, p := range c.injected {
			switch {
			case w.common == nil:
			case i == 0:
				shared = w.of(p.plan)
			default:
				shared = w.common(shared, w.of(p.plan))
			}
		}
		for _, p := range c.injected {
			field, said := p.field(report.Annotation(w.annotation)), p.spec.Annotations[w.annotation]
			also := shared
			if w.annotation == api.TLSPassthroughPortsAnnotation {
				also = called[p].String()
			}
			if strings.TrimSpace(said) == "" {
				said = also
			} else if also != "" {
				said += "," + also
			}
			switch want, err := w.parse(said); {
			case err != nil:
				c.report.Error(p.object, field, "%v", err)
			case want.String() != w.of(p.plan):
				c.report.Error(p.object, field, "asks for %q, together with what all workloads have, and the containers are told %q; render again", want, w.of(p.plan))
			}
		}
	}
	for _, p := range c.injected {
		if said := p.spec.Annotations[api.PprofAnnotation]; p.plan.Serve.Pprof != (said == "enabled") {
			c.report.Error(p.object, p.field(report.Annotation(api.PprofAnnotation)), "asks for %q, and the containers are told otherwise; render again", said)
		}
		if said, chosen := p.spec.Annotations[api.ProxyImageAnnotation]; chosen && said != p.plan.Proxy.Image {
			c.report.Error(p.object, p.field(p.place(api.ProxyName)+".image"), "is %q, and must be %q, as its annotation %s asks for; render again", p.plan.Proxy.Image, said, api.ProxyImageAnnotation)
		}
		c.redirected(p)
	}
}

// redirected reports a workload that has redirect rules, or none, otherwise than its annotation asks for. Without one,
// the config decides. Where the app listens, the annotation alone says.
func (c *checker) redirected(p *pod) {
	mode, address := v1alpha1.RedirectRules, podplan.AppPod
	if d := p.plan.Serve.Direct; d != nil {
		mode, address = v1alpha1.RedirectNone, d.AppAddress
	}
	if said, chosen := p.spec.Annotations[api.RedirectAnnotation]; chosen && said != string(mode) {
		c.report.Error(p.object, p.field(report.Annotation(api.RedirectAnnotation)), "asks for %q, and the containers are told otherwise; render again", said)
	}
	if said := cmp.Or(p.spec.Annotations[api.AppAddressAnnotation], string(podplan.AppPod)); said != string(address) {
		c.report.Error(p.object, p.field(report.Annotation(api.AppAddressAnnotation)), "asks for %q, and the containers are told otherwise; render again", said)
	}
}

func parsed[S interface {
	Union(others ...S) S
	fmt.Stringer
}](parse func(string) (S, error)) func(string) (fmt.Stringer, error) {
	return func(text string) (fmt.Stringer, error) {
		set, err := parse(text)
		return set.Union(), err // sorted
	}
}

func commonPorts(a, b string) string {
	x, errX := netset.ParsePorts(a)
	y, errY := netset.ParsePorts(b)
	if errX != nil || errY != nil {
		return "" // they come out of plans, so they can be read
	}
	return x.Intersect(y).String()
}

func commonParts(a, b string) string {
	other := strings.Split(b, ",")
	return strings.Join(slices.DeleteFunc(strings.Split(a, ","), func(part string) bool { return !slices.Contains(other, part) }), ",")
}
