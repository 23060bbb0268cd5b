package lint

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// warnDNS warns of pods that do not ask the DNS of the cluster, by which the proxy finds out who is behind an address.
// Near the cluster it refuses addresses whose names it cannot learn.
func warnDNS(w *manifest.Workload, r *report.Report) {
	everything := netset.Ports{{First: 1, Last: 65535}}
	if w.Plan.Redirect.ExcludeOutboundPorts.String() == everything.String() {
		return // the proxy sees nothing that leaves
	}
	const way = "Use ClusterFirst; or leave the workload out of the mesh with the annotation " + api.InjectAnnotation + ": disabled"
	switch config := w.Pod.Spec.DNSConfig; {
	case w.Pod.Spec.DNSPolicy == corev1.DNSDefault:
		r.Warn(w.Object, w.Field("spec.dnsPolicy"), "Default asks the DNS of the node, which does not know the cluster's Services: the proxy refuses connections near the cluster, and so to the mesh. %s", way)
	case w.Pod.Spec.DNSPolicy == corev1.DNSNone:
		r.Warn(w.Object, w.Field("spec.dnsPolicy"), "None asks the servers of dnsConfig: unless they answer for the cluster's Services, names of addresses among them, the proxy refuses connections near the cluster, and so to the mesh. %s", way)
	case config != nil && len(config.Nameservers) > 0:
		r.Warn(w.Object, w.Field("spec.dnsConfig.nameservers"), "may answer instead of the DNS of the cluster: unless they answer for its Services, names of addresses among them, the proxy refuses connections near the cluster, and so to the mesh. "+
			"Take them out, or have the DNS of the cluster forward to them")
	}
}

// quotaResources are those that a quota may demand of every container: requests by either name, and limits.
var quotaResources = []struct {
	hard  corev1.ResourceName
	name  corev1.ResourceName
	limit bool
}{
	{corev1.ResourceLimitsCPU, corev1.ResourceCPU, true}, {corev1.ResourceLimitsMemory, corev1.ResourceMemory, true},
	{corev1.ResourceRequestsCPU, corev1.ResourceCPU, false}, {corev1.ResourceRequestsMemory, corev1.ResourceMemory, false},
	{corev1.ResourceCPU, corev1.ResourceCPU, false}, {corev1.ResourceMemory, corev1.ResourceMemory, false},
}

// warnQuotas warns, once for each quota and resource, of quotas that demand what our containers do not say: the API
// server refuses the pods then. A LimitRange may say it for them.
func warnQuotas(m *manifest.Model, r *report.Report) {
	for i := range m.Quotas {
		q := &m.Quotas[i]
		object := report.Object{APIVersion: "v1", Kind: "ResourceQuota", Namespace: q.Namespace, Name: q.Name}
		namespace := manifest.EffectiveNamespace(object)
		for _, x := range quotaResources {
			if _, demanded := q.Spec.Hard[x.hard]; !demanded || limitRangeSays(m, namespace, x.name, x.limit) {
				continue
			}
			in := slices.IndexFunc(m.Workloads, func(w *manifest.Workload) bool {
				return w.Namespace == namespace && w.Pod.Spec.Resources == nil && (!says(w.Plan.Init, x.name, x.limit) || !says(w.Plan.Proxy, x.name, x.limit))
			})
			if in < 0 {
				continue
			}
			part := "requests"
			if x.limit {
				part = "limits"
			}
			r.Warn(object, fmt.Sprintf("spec.hard[%s]", x.hard), "demands %s.%s of every container, and %s or %s of %s says none: its pods are refused. Set it in spec.proxy.resources and spec.init.resources of the config, "+
				"or give the namespace a LimitRange with a default", part, x.name, api.InitName, api.ProxyName, m.Workloads[in].Object)
		}
	}
}

func says(c podplan.Container, name corev1.ResourceName, limit bool) bool {
	if c.Resources == nil {
		return false
	}
	_, limited := c.Resources.Limits[string(name)]
	_, requested := c.Resources.Requests[string(name)]
	return limited || requested && !limit // a limit is the request, too, where there is none
}

func limitRangeSays(m *manifest.Model, namespace string, name corev1.ResourceName, limit bool) bool {
	return slices.ContainsFunc(m.LimitRanges, func(l corev1.LimitRange) bool {
		if manifest.EffectiveNamespace(report.Object{APIVersion: "v1", Kind: "LimitRange", Namespace: l.Namespace}) != namespace {
			return false
		}
		return slices.ContainsFunc(l.Spec.Limits, func(item corev1.LimitRangeItem) bool {
			_, limited := item.Default[name]
			_, most := item.Max[name] // is the default of the limit where there is none
			_, requested := item.DefaultRequest[name]
			return item.Type == corev1.LimitTypeContainer && (limited || most || requested && !limit)
		})
	})
}
