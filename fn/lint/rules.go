package lint

import (
	"fmt"
	"slices"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// checkNoRedirect refuses, of a pod without redirect rules, what rules alone can do, and what keeps its DNS from the
// proxy.
func checkNoRedirect(w *manifest.Workload, r *report.Report) {
	annotation := func(key string) string { return w.Field(report.Annotation(key)) }
	if !w.Plan.NoRedirect() {
		if w.Overrides.AppAddress != "" {
			r.Error(w.Object, annotation(api.AppAddressAnnotation), "says where a proxy without redirect rules reaches the app, and this one has rules: take it out, or set %s: %s", api.RedirectAnnotation, v1alpha1.RedirectNone)
		}
		return
	}
	if w.Declaration != nil {
		r.Error(w.Object, annotation(api.RedirectAnnotation), "is %s, by itself or by spec.redirect of the config, and pods that are injected when they are made need rules: set it to %s", v1alpha1.RedirectNone, v1alpha1.RedirectRules)
	}
	for _, x := range ruleExclusions(w.Overrides.ExcludeInboundInterfaces, w.Overrides.ExcludeOutboundPorts, w.Overrides.ExcludeOutboundCIDRs, w.Overrides.ExcludeOutboundInterfaces, w.Overrides.ExcludeOutboundUIDs) {
		if x.value != "" {
			r.Error(w.Object, annotation(x.annotation), "leaves something out of the rules of %s, and this workload has none: what its app does not find by DNS bypasses the proxy anyway. Take it out, or set %s: %s",
				api.InitName, api.RedirectAnnotation, v1alpha1.RedirectRules)
		}
	}
	if i := podspec.PortStart(&w.Pod.Spec); i >= 0 && w.Pod.Spec.SecurityContext.Sysctls[i].Value != podspec.PortSysctlValue {
		r.Error(w.Object, w.Field(fmt.Sprintf("spec.securityContext.sysctls[%d].value", i)), "%s must be %q without redirect rules: the proxy listens on port %d of loopback. Change it, or take it out",
			podspec.PortSysctl, podspec.PortSysctlValue, api.ResolverPort)
	}
	checkResolver(w, r)
	warnClosed(w, r)
	warnAddresses(w, r)
}

// ruleExclusion is something that is left out of rules.
type ruleExclusion struct{ annotation, field, value string }

// ruleExclusions are annotations and fields of the config that leave something out of rules, with what each says.
func ruleExclusions(inInterfaces netset.Interfaces, ports netset.Ports, cidrs netset.Prefixes, interfaces netset.Interfaces, uids netset.UIDs) []ruleExclusion {
	return []ruleExclusion{
		{api.ExcludeInboundInterfacesAnnotation, "spec.inbound.excludeInterfaces", inInterfaces.String()},
		{api.ExcludeOutboundPortsAnnotation, "spec.outbound.excludePorts", ports.String()},
		{api.ExcludeOutboundCIDRsAnnotation, "spec.outbound.excludeCIDRs", cidrs.String()},
		{api.ExcludeOutboundInterfacesAnnotation, "spec.outbound.excludeInterfaces", interfaces.String()},
		{api.ExcludeOutboundUIDsAnnotation, "spec.outbound.excludeUIDs", uids.String()},
	}
}

// checkResolver refuses containers that would not ask the proxy, or that take its port.
func checkResolver(w *manifest.Workload, r *report.Report) {
	for field, c := range w.Containers() {
		if i := podspec.MountsResolver(c); i >= 0 {
			r.Error(w.Object, fmt.Sprintf("%s.volumeMounts[%d].mountPath", field, i), "container %q mounts a file of its own at %s, so it would not ask the proxy, and its connections would bypass it. "+
				"Take the mount out and say what it says in dnsConfig of the pod, or set %s: %s", c.Name, podspec.ResolverPath, api.RedirectAnnotation, v1alpha1.RedirectRules)
		}
		for i, p := range c.Ports {
			if p.ContainerPort == api.ResolverPort {
				r.Error(w.Object, fmt.Sprintf("%s.ports[%d].containerPort", field, i), "container %q uses port %d, on which the proxy answers the pod's DNS queries; choose another, or set %s: %s",
					c.Name, api.ResolverPort, api.RedirectAnnotation, v1alpha1.RedirectRules)
			}
		}
	}
}

// warnClosed warns of ports that annotations name and that the proxy does not take: without redirect rules it takes
// those that containers and Services name. What comes to a port of the node gets to the app's own port, which is shut.
func warnClosed(w *manifest.Workload, r *report.Report) {
	for _, named := range []struct {
		annotation string
		ports      netset.Ports
	}{
		{api.PermissivePortsAnnotation, w.Overrides.PermissivePorts}, {api.TLSPassthroughPortsAnnotation, w.Overrides.TLSPassthroughPorts},
		{api.StrictPortsAnnotation, w.Overrides.StrictPorts}, {api.ProxyProtocolPortsAnnotation, w.Overrides.ProxyProtocolPorts},
	} {
		if len(named.ports) > 0 && len(named.ports.Intersect(w.Plan.Serve.Direct.Ports)) == 0 {
			r.Warn(w.Object, w.Field(report.Annotation(named.annotation)), "has no effect: without redirect rules the proxy takes the ports of the containers and the targets of Services (%s), and none of these is among them. Write it into ports of the container",
				w.Plan.Serve.Direct.Ports)
		}
	}
	for field, c := range w.Containers() {
		for i, p := range c.Ports {
			if p.HostPort != 0 && manifest.IsTCP(p.Protocol) && !w.Plan.Redirect.ExcludeInboundPorts.Contains(uint16(p.ContainerPort)) {
				r.Warn(w.Object, fmt.Sprintf("%s.ports[%d].hostPort", field, i), "leads past the proxy to the app's own port %d, which a NetworkPolicy shuts without redirect rules. Let clients come through a Service, or set %s: %s",
					p.ContainerPort, api.RedirectAnnotation, v1alpha1.RedirectRules)
			}
		}
	}
}

// checkRedirect reports what spec.redirect says of nobody, and what the config leaves out of rules that a workload does
// not have.
func checkRedirect(m *manifest.Model, r *report.Report) {
	all := slices.Concat(m.Workloads, m.Outside)
	for i, selector := range m.Spec.Redirect.None {
		if !slices.ContainsFunc(all, func(w *manifest.Workload) bool { return manifest.Matches(selector, w) }) {
			said := r.Warn // a rule for every package, like one of namespaces
			if selector.Name != "" {
				said = r.Error
			}
			said(r.Config(), fmt.Sprintf("spec.redirect.none[%d]", i), "selects no workload of the input%s", manifest.Candidates(selector, all))
		}
	}
	first := slices.IndexFunc(m.Workloads, func(w *manifest.Workload) bool { return w.Plan.NoRedirect() })
	if first < 0 {
		return
	}
	in, out := m.Spec.Inbound, m.Spec.Outbound
	for _, x := range ruleExclusions(in.ExcludeInterfaces, out.ExcludePorts.Set(), out.ExcludeCIDRs, out.ExcludeInterfaces, out.ExcludeUIDs) {
		if x.value != "" {
			r.Error(r.Config(), x.field, "leaves something out of the rules of %s, and %s has none (spec.redirect, or %s). Take it out, and write the annotation %s into the pod templates that it is for",
				api.InitName, m.Workloads[first].Object, api.RedirectAnnotation, x.annotation)
		}
	}
}
