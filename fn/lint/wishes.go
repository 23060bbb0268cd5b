package lint

import (
	"maps"
	"slices"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// foreign is a wish that a pod template expresses in the words of another mesh.
type foreign struct {
	mesh, ours string // ours is the annotation, or the field of the config, that says the same here
	alsoOurs   string // a second annotation, where one of theirs says what two of ours do
	inverse    bool   // it names what is taken in, and ours what is left out
	rest       string // what it says that nothing here does
	instead    string // where nothing of ours says it: what is here
	only       string // the value that means something; "" where each does
}

// foreignWishes are the annotations of other meshes that have an equivalent here (Istio:
// istio.io/latest/docs/reference/config/annotations; Linkerd: linkerd.io/2/reference/proxy-configuration; Consul:
// developer.hashicorp.com/consul/docs/k8s/annotations-and-labels; Kuma: kuma.io/docs, "Annotations and labels").
// Requests for injection are of injection.go.
var foreignWishes = map[string]foreign{
	"traffic.sidecar.istio.io/excludeInboundPorts":     {mesh: "Istio", ours: api.ExcludeInboundPortsAnnotation},
	"traffic.sidecar.istio.io/excludeOutboundPorts":    {mesh: "Istio", ours: api.ExcludeOutboundPortsAnnotation},
	"traffic.sidecar.istio.io/excludeOutboundIPRanges": {mesh: "Istio", ours: api.ExcludeOutboundCIDRsAnnotation},
	"traffic.sidecar.istio.io/excludeInterfaces":       {mesh: "Istio", ours: api.ExcludeInboundInterfacesAnnotation, alsoOurs: api.ExcludeOutboundInterfacesAnnotation},
	"traffic.sidecar.istio.io/includeInboundPorts":     {mesh: "Istio", ours: api.ExcludeInboundPortsAnnotation, inverse: true},
	"traffic.sidecar.istio.io/includeOutboundPorts":    {mesh: "Istio", ours: api.ExcludeOutboundPortsAnnotation, inverse: true},
	"traffic.sidecar.istio.io/includeOutboundIPRanges": {mesh: "Istio", ours: api.ExcludeOutboundCIDRsAnnotation, inverse: true},
	"traffic.sidecar.istio.io/kubevirtInterfaces":      {mesh: "Istio", instead: "what a virtual machine behind such an interface opens does not pass the proxy"},
	"sidecar.istio.io/rewriteAppHTTPProbers":           {mesh: "Istio", instead: "probes go through the proxy's health port, always", only: "false"},
	"sidecar.istio.io/proxyCPU":                        {mesh: "Istio", ours: api.ProxyCPUAnnotation},
	"sidecar.istio.io/proxyMemory":                     {mesh: "Istio", ours: api.ProxyMemoryAnnotation},
	"sidecar.istio.io/proxyCPULimit":                   {mesh: "Istio", ours: api.ProxyCPULimitAnnotation},
	"sidecar.istio.io/proxyMemoryLimit":                {mesh: "Istio", ours: api.ProxyMemoryLimitAnnotation},
	"sidecar.istio.io/proxyImage":                      {mesh: "Istio", ours: api.ProxyImageAnnotation},
	"sidecar.istio.io/logLevel":                        {mesh: "Istio", ours: api.LogLevelAnnotation},

	"config.linkerd.io/skip-inbound-ports":     {mesh: "Linkerd", ours: api.ExcludeInboundPortsAnnotation},
	"config.linkerd.io/skip-outbound-ports":    {mesh: "Linkerd", ours: api.ExcludeOutboundPortsAnnotation},
	"config.linkerd.io/skip-subnets":           {mesh: "Linkerd", ours: api.ExcludeOutboundCIDRsAnnotation, rest: " for what leaves, and there is none for what arrives"},
	"config.linkerd.io/default-inbound-policy": {mesh: "Linkerd", ours: "spec.authorization of the config"},
	"config.linkerd.io/proxy-cpu-request":      {mesh: "Linkerd", ours: api.ProxyCPUAnnotation},
	"config.linkerd.io/proxy-memory-request":   {mesh: "Linkerd", ours: api.ProxyMemoryAnnotation},
	"config.linkerd.io/proxy-cpu-limit":        {mesh: "Linkerd", ours: api.ProxyCPULimitAnnotation},
	"config.linkerd.io/proxy-memory-limit":     {mesh: "Linkerd", ours: api.ProxyMemoryLimitAnnotation},
	"config.linkerd.io/proxy-image":            {mesh: "Linkerd", ours: api.ProxyImageAnnotation},
	"config.linkerd.io/proxy-log-level":        {mesh: "Linkerd", ours: api.LogLevelAnnotation},

	"consul.hashicorp.com/transparent-proxy-exclude-inbound-ports":  {mesh: "Consul", ours: api.ExcludeInboundPortsAnnotation},
	"consul.hashicorp.com/transparent-proxy-exclude-outbound-ports": {mesh: "Consul", ours: api.ExcludeOutboundPortsAnnotation},
	"consul.hashicorp.com/transparent-proxy-exclude-outbound-cidrs": {mesh: "Consul", ours: api.ExcludeOutboundCIDRsAnnotation},
	"consul.hashicorp.com/transparent-proxy-exclude-uids":           {mesh: "Consul", ours: api.ExcludeOutboundUIDsAnnotation},
	"consul.hashicorp.com/sidecar-proxy-cpu-request":                {mesh: "Consul", ours: api.ProxyCPUAnnotation},
	"consul.hashicorp.com/sidecar-proxy-memory-request":             {mesh: "Consul", ours: api.ProxyMemoryAnnotation},
	"consul.hashicorp.com/sidecar-proxy-cpu-limit":                  {mesh: "Consul", ours: api.ProxyCPULimitAnnotation},
	"consul.hashicorp.com/sidecar-proxy-memory-limit":               {mesh: "Consul", ours: api.ProxyMemoryLimitAnnotation},

	"traffic.kuma.io/exclude-inbound-ports":  {mesh: "Kuma", ours: api.ExcludeInboundPortsAnnotation},
	"traffic.kuma.io/exclude-outbound-ports": {mesh: "Kuma", ours: api.ExcludeOutboundPortsAnnotation},
}

// warnWishes warns of annotations and labels of a pod in the mesh that mean something to another mesh only, unless ours
// are there as well: whoever brings manifests along thinks that they hold.
func warnWishes(w *manifest.Workload, r *report.Report) {
	for _, place := range places(w) {
		for _, key := range slices.Sorted(maps.Keys(place.keys)) {
			if wish, known := foreignWishes[key]; known && (wish.only == "" || wish.only == place.keys[key]) {
				warnWish(w.Object, w.Field("metadata."+place.name+"["+key+"]"), wish, w.Pod.Annotations, r)
			}
		}
	}
}

func warnWish(object report.Object, field string, wish foreign, annotations map[string]string, r *report.Report) {
	_, said := annotations[wish.ours]
	_, alsoSaid := annotations[wish.alsoOurs]
	switch {
	case wish.instead != "":
		r.Warn(object, field, "is %s's and has no effect here: %s", wish.mesh, wish.instead)
	case said && (alsoSaid || wish.alsoOurs == ""):
	case said:
		r.Warn(object, field, "is %s's and has no effect here; %s says a half of it, and the other is %s", wish.mesh, wish.ours, wish.alsoOurs)
	case alsoSaid:
		r.Warn(object, field, "is %s's and has no effect here; %s says a half of it, and the other is %s", wish.mesh, wish.alsoOurs, wish.ours)
	case wish.inverse:
		r.Warn(object, field, "is %s's and has no effect here: everything goes through the proxy but what %s leaves out", wish.mesh, wish.ours)
	case wish.alsoOurs != "":
		r.Warn(object, field, "is %s's and has no effect here; the equivalent is %s, and for what leaves %s", wish.mesh, wish.ours, wish.alsoOurs)
	default:
		r.Warn(object, field, "is %s's and has no effect here; the equivalent is %s%s", wish.mesh, wish.ours, wish.rest)
	}
}
