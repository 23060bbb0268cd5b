package manifest

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
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
		Serve:   podplan.ProxyArgs{Directory: api.Directory, LogLevel: cmp.Or(o.LogLevel, spec.Proxy.LogLevel), IdleTimeout: spec.Proxy.IdleTimeout.Duration, Pprof: o.Pprof, ClientCIDRs: clients, Records: spec.Proxy.Records},
		Native:  spec.Sidecar.Mode == v1alpha1.NativeSidecar,
		Init:    podplan.Container{Image: spec.Init.Image, PullPolicy: string(spec.Init.ImagePullPolicy)},
		Proxy:   podplan.Container{Image: cmp.Or(o.Image, spec.Proxy.Image), PullPolicy: string(spec.Proxy.ImagePullPolicy)},
		FIPS140: spec.Proxy.FIPS140,
		Files:   m.files(w),
	}
	p.Init.Resources, p.Proxy.Resources = m.containerResources(w)
	if m.noRedirect(w) {
		p.Serve.Direct = &podplan.Direct{AppAddress: cmp.Or(o.AppAddress, podplan.AppPod)}
		p.Serve.ClientCIDRs = clientaddr.Ranges{}
		p.Redirect = podplan.InitArgs{ProxyUID: p.Redirect.ProxyUID, ExcludeInboundPorts: p.Redirect.ExcludeInboundPorts, Backend: podplan.BackendAuto}
	}
	podspec.Derive(p, &w.Pod.Spec, func(field string, err error) { r.Error(w.Object, w.Field(field), "%v", err) })
	return p
}

// noRedirect tells whether no rules lead the traffic of a workload to its proxy. What rules alone can do, and somebody
// asks for, package lint refuses.
func (m *Model) noRedirect(w *Workload) bool {
	if w.Overrides.Redirect != "" {
		return w.Overrides.Redirect == v1alpha1.RedirectNone
	}
	return m.Spec.Redirect.Mode == v1alpha1.RedirectNone ||
		slices.ContainsFunc(m.Spec.Redirect.None, func(s v1alpha1.Selector) bool { return Matches(s, w) })
}

// addDirectPorts adds, to the ports that proxies without redirect rules take, those to which Services lead.
func (m *Model) addDirectPorts() {
	for _, w := range m.Workloads {
		if w.Plan.NoRedirect() {
			w.Plan.Serve.Direct.Ports = ShownPorts(w).Minus(w.Plan.Redirect.ExcludeInboundPorts)
		}
	}
}

// files say where a workload's proxy gets leaf, key and bundle from.
func (m *Model) files(w *Workload) podplan.Files {
	f := podplan.Files{LeafSecret: cmp.Or(w.Overrides.TLSSecret, w.SecretName()), KeyFile: api.PlainKeyFile}
	if m.Spec.UsesCertManager() {
		f.LeafSecret = cmp.Or(w.Overrides.TLSSecret, w.ManagedSecretName())
		bundle := m.Spec.Certificates.CertManager.Bundle
		f.Bundle = podplan.Source{Name: bundle.ConfigMap, Key: bundle.Key}
		if w.Apart() {
			f.Mesh = w.HookMeshName()
		}
		return f
	}
	f.Bundle = podplan.Source{Name: api.BundleName(m.Package), Key: api.BundleFile}
	if w.Apart() {
		f.Bundle.Name, f.Mesh = w.HookBundleName(), w.HookMeshName()
	}
	if w.Overrides.TLSSecret == "" && m.Spec.Sealing.Format == v1alpha1.SealingAge {
		f.KeyFile, f.Identity = api.SealedKeyFile, podplan.Source(m.Spec.Sealing.IdentitySecret)
	}
	return f
}

// The defaults set CPU and memory requests, since a HorizontalPodAutoscaler cannot compute a utilization without, and
// no CPU limit, which would throttle handshakes. Our containers write nothing but their logs.
var (
	proxyResources = corev1.ResourceRequirements{Requests: quantities("10m", "32Mi", "16Mi"), Limits: quantities("", "256Mi", "")}
	initResources  = corev1.ResourceRequirements{Requests: quantities("10m", "16Mi", "16Mi"), Limits: quantities("", "64Mi", "")}
)

// StorageLimit is the limit of ephemeral storage of our containers beside that of another. It is more than the logs
// that a kubelet keeps of one container: 50 MiB by default, 250 MiB on some clouds.
const StorageLimit = "512Mi"

func quantities(cpu, memory, storage string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for name, quantity := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory, corev1.ResourceEphemeralStorage: storage} {
		if quantity != "" {
			l[name] = resource.MustParse(quantity)
		}
	}
	return l
}

// resources are what the config asks for, or the defaults when it asks for nothing, and beside them what annotations
// say: proxy-cpu (a request), proxy-memory (a request and the limit), proxy-cpu-limit and proxy-memory-limit. A pod
// that has resources as a whole (spec.resources) shares them out itself. The defaults are then left out, since what its
// containers ask for must fit into what the pod has.
func resources(w *Workload, configured *corev1.ResourceRequirements, defaults corev1.ResourceRequirements, o Overrides) *podplan.Resources {
	if w.Pod.Spec.Resources != nil && configured == nil && !o.resources() {
		return nil
	}
	from := defaults
	if configured != nil {
		from = *configured
	}
	r := podspec.ResourcesOf(from)
	if configured == nil && limitsStorage(&w.Pod.Spec) {
		override(&r.Limits, corev1.ResourceEphemeralStorage, StorageLimit)
	}
	override(&r.Requests, corev1.ResourceCPU, o.CPU)
	override(&r.Requests, corev1.ResourceMemory, o.Memory)
	override(&r.Limits, corev1.ResourceCPU, o.CPULimit)
	override(&r.Limits, corev1.ResourceMemory, cmp.Or(o.MemoryLimit, o.Memory))
	return r
}

// limitsStorage tells whether a container of the pod has a limit of ephemeral storage. The kubelet adds up the limits
// that it finds and evicts the pod when all its containers and volumes together use more. So in a pod without any, a
// limit of ours would be the limit of the app; in one that has some, ours only adds to it.
func limitsStorage(pod *corev1.PodSpec) bool {
	limits := func(c corev1.Container) bool { return !c.Resources.Limits.StorageEphemeral().IsZero() }
	return slices.ContainsFunc(pod.Containers, limits) || slices.ContainsFunc(pod.InitContainers, limits)
}
