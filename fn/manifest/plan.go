package manifest

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// plan is what a workload of the mesh is told: what the config says, and beside it what its annotations say.
func (m *Model) plan(w *Workload, r *report.Report) *podplan.Plan {
	o, spec := w.Overrides, m.Spec
	clients, _ := spec.ClientCIDRs() // was validated
	p := &podplan.Plan{
		Package: m.Package,
		Workload: podplan.Workload{SPIFFEID: w.ID.String(), PermissivePorts: o.PermissivePorts, TLSPassthroughPorts: o.TLSPassthroughPorts,
			StrictPorts: o.StrictPorts, ProxyProtocolPorts: o.ProxyProtocolPorts, TransparentPorts: o.TransparentPorts},
		Redirect: podplan.InitArgs{
			ProxyUID:                  int(spec.Sidecar.UID),
			ExcludeInboundPorts:       spec.Inbound.ExcludePorts.Set().Union(o.ExcludeInboundPorts),
			ExcludeOutboundPorts:      spec.Outbound.ExcludePorts.Set().Union(o.ExcludeOutboundPorts),
			ExcludeOutboundCIDRs:      netset.Prefixes(spec.Outbound.ExcludeCIDRs).Union(o.ExcludeOutboundCIDRs),
			ExcludeInboundInterfaces:  netset.Interfaces(spec.Inbound.ExcludeInterfaces).Union(o.ExcludeInboundInterfaces),
			ExcludeOutboundInterfaces: netset.Interfaces(spec.Outbound.ExcludeInterfaces).Union(o.ExcludeOutboundInterfaces),
			ExcludeOutboundUIDs:       netset.UIDs(spec.Outbound.ExcludeUIDs).Union(o.ExcludeOutboundUIDs),
			TransparentPorts:          o.TransparentPorts,
			ClientCIDRs:               clients,
			Backend:                   spec.Init.Backend,
		},
		Serve:   podplan.ProxyArgs{Directory: api.Directory, LogLevel: cmp.Or(o.LogLevel, spec.Proxy.LogLevel), Pprof: o.Pprof, ClientCIDRs: clients},
		Native:  spec.Sidecar.Mode == v1alpha1.NativeSidecar,
		Init:    podplan.Container{Image: spec.Init.Image, PullPolicy: string(spec.Init.ImagePullPolicy)},
		Proxy:   podplan.Container{Image: cmp.Or(o.Image, spec.Proxy.Image), PullPolicy: string(spec.Proxy.ImagePullPolicy)},
		FIPS140: spec.Proxy.FIPS140,
		Files:   m.files(w),
	}
	p.Init.Resources = resources(w, spec.Init.Resources, initResources, Overrides{})
	p.Proxy.Resources = resources(w, spec.Proxy.Resources, proxyResources, o)
	podspec.Derive(p, &w.Pod.Spec, func(field string, err error) { r.Error(w.Object, w.Field(field), "%v", err) })
	return p
}

// files say where a workload's proxy gets leaf, key and bundle from.
func (m *Model) files(w *Workload) podplan.Files {
	f := podplan.Files{LeafSecret: cmp.Or(w.Overrides.TLSSecret, w.SecretName()), KeyFile: api.PlainKeyFile}
	if m.Spec.UsesCertManager() {
		f.LeafSecret = cmp.Or(w.Overrides.TLSSecret, w.ManagedSecretName())
		bundle := m.Spec.Certificates.CertManager.Bundle
		f.Bundle = podplan.Source{Name: bundle.ConfigMap, Key: bundle.Key}
		return f
	}
	f.Bundle = podplan.Source{Name: api.BundleName(m.Package), Key: api.BundleFile}
	if w.Overrides.TLSSecret == "" && m.Spec.Sealing.Format == v1alpha1.SealingAge {
		f.KeyFile, f.Identity = api.SealedKeyFile, podplan.Source(m.Spec.Sealing.IdentitySecret)
	}
	return f
}

// The defaults set CPU and memory requests, since a HorizontalPodAutoscaler cannot compute a utilization without, and
// no CPU limit, which would throttle handshakes.
var (
	proxyResources = corev1.ResourceRequirements{Requests: quantities("10m", "32Mi"), Limits: quantities("", "256Mi")}
	initResources  = corev1.ResourceRequirements{Requests: quantities("10m", "16Mi"), Limits: quantities("", "64Mi")}
)

func quantities(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

// resources are what the config asks for, or the defaults when it asks for nothing, and beside them what annotations
// say: proxy-cpu (a request) and proxy-memory (a request and the limit). A pod that has resources as a whole
// (spec.resources) shares them out itself. The defaults are then left out, since what its containers ask for must fit
// into what the pod has.
func resources(w *Workload, configured *corev1.ResourceRequirements, defaults corev1.ResourceRequirements, o Overrides) *podplan.Resources {
	if w.Pod.Spec.Resources != nil && configured == nil && o.CPU == "" && o.Memory == "" {
		return nil
	}
	from := defaults
	if configured != nil {
		from = *configured
	}
	r := podspec.ResourcesOf(from)
	override := func(list *map[string]string, name corev1.ResourceName, quantity string) {
		if quantity == "" {
			return
		}
		if *list == nil {
			*list = map[string]string{}
		}
		q := resource.MustParse(quantity) // readOverrides has parsed it
		(*list)[string(name)] = q.String()
	}
	override(&r.Requests, corev1.ResourceCPU, o.CPU)
	override(&r.Requests, corev1.ResourceMemory, o.Memory)
	override(&r.Limits, corev1.ResourceMemory, o.Memory)
	return r
}
