package lint

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
)

// warnDNS warns of pods that do not ask the DNS of the cluster, by which the proxy finds out who is behind an address.
// Near the cluster it refuses addresses whose names it cannot learn.
func warnDNS(w *manifest.Workload, r *report.Report) {
	everything := netset.Ports{{First: 1, Last: 65535}}
	if w.Plan.Redirect.ExcludeOutboundPorts.String() == everything.String() || w.Plan.NoRedirect() {
		return // the proxy sees nothing that leaves, or resolves for the app (warnOtherNames)
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
