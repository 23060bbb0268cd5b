// Package inject edits pod templates: Strip takes out what an earlier injection put in, Apply puts it in anew. Edits
// are made on YAML nodes, so that comments, order, quotes and unknown fields of everything else survive. The package
// sees names of Secrets only, never keys.
package inject

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Apply injects init container, sidecar, volume and annotations into the pod template of a workload of the mesh, and
// points its handlers to the proxy. The template must be stripped. What is the same in many workloads is one node of
// shared, so nothing of ours must be changed afterwards but taken out whole.
func Apply(m *manifest.Model, w *manifest.Workload, shared *node.Shared, r *report.Report) error {
	template, err := w.Node.Pipe(yaml.Lookup(w.TemplatePath...))
	if err != nil {
		return err
	}
	spec := node.Get(template.YNode(), "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		return fmt.Errorf("%s: %s is no mapping", w.Object, w.Field("spec"))
	}
	if m.Spec.Sidecar.Mode == v1alpha1.ContainerSidecar {
		checkContainerMode(w, r)
	}
	handlers, original, err := rewriteHandlers(m, w, spec, r)
	if err != nil {
		return err
	}
	workload := podplan.Workload{SPIFFEID: w.ID.String(), PermissivePorts: w.Overrides.PermissivePorts,
		ProxyProtocolPorts: w.Overrides.ProxyProtocolPorts, Handlers: handlers}
	annotation, err := workload.Marshal()
	if err != nil {
		return err
	}
	place(m, w, shared, spec)
	volumes := node.Sequence(spec, "volumes")
	volumes.Content = append(volumes.Content, shared.Of(volume(m, w)))
	annotations := node.Child(node.Child(template.YNode(), "metadata"), "annotations")
	node.Set(annotations, api.WorkloadAnnotation, node.Literal(string(annotation)))
	if original != "" {
		node.Set(annotations, api.OriginalAnnotation, node.Literal(original))
	}
	if m.Spec.Sidecar.Mode == v1alpha1.ContainerSidecar {
		setDefaultContainer(annotations, w)
	}
	return nil
}

func initContainer(m *manifest.Model, w *manifest.Workload) *yaml.Node {
	args := podplan.InitArgs{
		ProxyUID:                  int(m.Spec.Sidecar.UID),
		ExcludeInboundPorts:       m.ExcludedInbound(w),
		ExcludeOutboundPorts:      m.Spec.Outbound.ExcludePorts.Set().Union(w.Overrides.ExcludeOutboundPorts),
		ExcludeOutboundCIDRs:      netset.Prefixes(m.Spec.Outbound.ExcludeCIDRs).Union(w.Overrides.ExcludeOutboundCIDRs),
		ExcludeInboundInterfaces:  netset.Interfaces(m.Spec.Inbound.ExcludeInterfaces).Union(w.Overrides.ExcludeInboundInterfaces),
		ExcludeOutboundInterfaces: netset.Interfaces(m.Spec.Outbound.ExcludeInterfaces).Union(w.Overrides.ExcludeOutboundInterfaces),
		ExcludeOutboundUIDs:       netset.UIDs(m.Spec.Outbound.ExcludeUIDs).Union(w.Overrides.ExcludeOutboundUIDs),
		Backend:                   m.Spec.Init.Backend,
	}
	c := node.Object("name", api.InitName, "image", m.Spec.Init.Image)
	setPullPolicy(c, m.Spec.Init.ImagePullPolicy)
	node.Set(c, "args", node.Value(args.Args()))
	setResources(c, w, m.Spec.Init.Resources, initResources, manifest.Overrides{})
	rest := node.Object(
		"securityContext", node.Object(
			"allowPrivilegeEscalation", false,
			"capabilities", node.Object("add", initCapabilities(args.Backend), "drop", []string{"ALL"}),
			"privileged", false,
			"readOnlyRootFilesystem", true,
			"runAsGroup", 0,
			"runAsNonRoot", false,
			"runAsUser", 0,
			"seccompProfile", node.Object("type", "RuntimeDefault"),
		),
		"terminationMessagePolicy", "FallbackToLogsOnError",
	)
	c.Content = append(c.Content, rest.Content...)
	return c
}

// initCapabilities: NET_ADMIN changes the rules. The legacy iptables talks to the kernel through a raw socket, and
// which variant a node needs shows only there.
func initCapabilities(b podplan.Backend) []string {
	if b == podplan.BackendIPTables {
		return []string{"NET_ADMIN", "NET_RAW"}
	}
	return []string{"NET_ADMIN"}
}

func proxyContainer(m *manifest.Model, w *manifest.Workload) *yaml.Node {
	image, native := m.Spec.Proxy.Image, m.Spec.Sidecar.Mode == v1alpha1.NativeSidecar
	if w.Overrides.Image != "" {
		image = w.Overrides.Image
	}
	c := node.Object("name", api.ProxyName, "image", image)
	setPullPolicy(c, m.Spec.Proxy.ImagePullPolicy)
	add := func(pairs ...any) { c.Content = append(c.Content, node.Object(pairs...).Content...) }
	if args := proxyArgs(m, w).Args(); len(args) > 0 {
		add("args", args)
	}
	if m.Spec.Proxy.FIPS140 {
		add("env", node.List(node.Object("name", podplan.FIPSVariable, "value", podplan.FIPSValue)))
	}
	if !native {
		add("lifecycle", hooks(w))
	}
	ready := func() *yaml.Node { return node.Object("path", "/readyz", "port", api.HealthPort) }
	add("ports", node.List(node.Object("containerPort", api.MetricsPort, "name", "mesh-metrics", "protocol", "TCP")),
		"readinessProbe", node.Object("httpGet", ready(), "periodSeconds", 5))
	setResources(c, w, m.Spec.Proxy.Resources, proxyResources, w.Overrides)
	if native {
		add("restartPolicy", "Always")
	}
	uid := m.Spec.Sidecar.UID
	add("securityContext", node.Object(
		"allowPrivilegeEscalation", false,
		"capabilities", node.Object("drop", []string{"ALL"}),
		"privileged", false,
		"readOnlyRootFilesystem", true,
		"runAsGroup", uid,
		"runAsNonRoot", true,
		"runAsUser", uid,
		"seccompProfile", node.Object("type", "RuntimeDefault"),
	))
	if native {
		add("startupProbe", node.Object("failureThreshold", 120, "httpGet", ready(), "periodSeconds", 1))
	}
	add("terminationMessagePolicy", "FallbackToLogsOnError",
		"volumeMounts", node.List(node.Object("mountPath", api.Directory, "name", api.VolumeName, "readOnly", true)))
	return c
}

func proxyArgs(m *manifest.Model, w *manifest.Workload) podplan.ProxyArgs {
	a := podplan.ProxyArgs{LogLevel: m.Spec.Proxy.LogLevel, DrainTimeout: drainTimeout(w), Pprof: w.Overrides.Pprof}
	if w.Overrides.LogLevel != "" {
		a.LogLevel = w.Overrides.LogLevel
	}
	if m.Spec.Sidecar.Mode == v1alpha1.ContainerSidecar {
		a.DrainTimeout = drainArgs(w).Timeout // both count from the beginning of the drain
	}
	return a
}

// drainTimeout leaves the last five seconds of the pod's grace period for the exit itself; 0 is the proxy's default.
func drainTimeout(w *manifest.Workload) time.Duration {
	grace := w.Pod.Spec.TerminationGracePeriodSeconds
	if grace == nil {
		return 0
	}
	return max(time.Second, time.Duration(*grace)*time.Second-5*time.Second)
}

// volume is one projected volume: one volume is one atomic swap, so the proxy never sees a leaf without its key or its
// bundle.
func volume(m *manifest.Model, w *manifest.Workload) *yaml.Node {
	item := func(key, path string) *yaml.Node { return node.Object("key", key, "path", path) }
	source := func(kind, name string, items ...*yaml.Node) *yaml.Node {
		return node.Object(kind, node.Object("items", &yaml.Node{Kind: yaml.SequenceNode, Tag: yaml.NodeTagSeq, Content: items}, "name", name))
	}
	from := m.Sources(w)
	leaf := []*yaml.Node{item(api.LeafFile, api.LeafFile), item(from.KeyFile, from.KeyFile)}
	if from.BundleConfigMap.Name == "" {
		leaf = append(leaf, item(api.BundleFile, api.BundleFile))
	}
	sources := node.List(source("secret", from.LeafSecret, leaf...))
	add := func(n *yaml.Node) { sources.Content = append(sources.Content, n) }
	if from.Identity.Name != "" {
		add(source("secret", from.Identity.Name, item(from.Identity.Key, api.IdentityFile)))
	}
	if from.BundleConfigMap.Name != "" {
		add(source("configMap", from.BundleConfigMap.Name, item(from.BundleConfigMap.Key, api.BundleFile)))
	}
	add(source("configMap", api.MeshName, item(api.MeshFile, api.MeshFile)))
	// The API server would fill in apiVersion; sources being one list without keys, kubectl apply would then see a
	// difference and send a patch every time.
	add(node.Object("downwardAPI", node.Object("items", node.List(node.Object(
		"fieldRef", node.Object("apiVersion", "v1", "fieldPath", "metadata.annotations['"+api.WorkloadAnnotation+"']"), "path", api.WorkloadFile)))))
	return node.Object("name", api.VolumeName, "projected", node.Object("sources", sources))
}

// The defaults set CPU and memory requests, since a HorizontalPodAutoscaler cannot compute a utilization without, and
// no CPU limit, which would throttle handshakes.
var (
	proxyResources = corev1.ResourceRequirements{Requests: quantities("10m", "32Mi"), Limits: quantities("", "256Mi")}
	initResources  = corev1.ResourceRequirements{Requests: quantities("10m", "16Mi"), Limits: quantities("", "64Mi")}
)
