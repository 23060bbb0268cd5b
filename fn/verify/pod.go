package verify

import (
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// workload checks one workload: injected whole, or not at all and on purpose.
func (c *checker) workload(item *yaml.RNode, path []string) {
	object := report.ObjectOf(item)
	template, err := item.Pipe(yaml.Lookup(path...))
	if err != nil || template == nil {
		c.report.Error(object, strings.Join(path, "."), "is missing")
		return
	}
	var pod corev1.PodTemplateSpec
	if node.Decode(template, &pod) != nil {
		c.report.Error(object, strings.Join(path, "."), "cannot be read")
		return
	}
	annotation, injected := pod.Annotations[api.WorkloadAnnotation]
	if !injected {
		c.uninjected(object, pod)
		return
	}
	workload, err := podplan.ParseWorkload([]byte(annotation))
	if err != nil {
		c.report.Error(object, "metadata.annotations["+api.WorkloadAnnotation+"]", "%v", err)
		return
	}
	id := spiffeid.RequireFromString(workload.SPIFFEID) // ParseWorkload has read it
	if want, err := api.WorkloadID(id.TrustDomain(), namespaceOf(object), strings.ToLower(object.Kind), object.Name); err != nil || want != id {
		c.report.Error(object, "metadata", "is not what its identity %s says; render after what renames or moves it (the function belongs last into the outermost overlay)", id)
	}
	parts, field, err := takeApart(pod.Spec)
	if err != nil {
		c.report.Error(object, field, "%v; a later transformer or patch has moved or removed them", err)
		return
	}
	c.injected = append(c.injected, meshed{object, pod.Labels, workload.SPIFFEID, runsFIPS(parts.proxy)})
	c.foreign(object, pod.Annotations, pod.Labels)
	uid := c.proxy(object, parts)
	args := c.init(object, parts.init, uid)
	c.exclusions(object, args, workload.PermissivePorts)
	if both := workload.ProxyProtocolPorts.Intersect(args.ExcludeInboundPorts); len(both) > 0 {
		c.report.Error(object, "metadata.annotations["+api.WorkloadAnnotation+"]", "port %s never passes the proxy, and the app waits for a PROXY header there; render again", both)
	}
	c.others(object, pod, parts.others, uid)
	c.handlers(object, parts.others, workload, args.ExcludeInboundPorts)
	c.volume(object, pod, workload.SPIFFEID)
}

func (c *checker) uninjected(object report.Object, pod corev1.PodTemplateSpec) {
	ours := func(x corev1.Container) bool { return strings.HasPrefix(x.Name, api.NamePrefix) }
	if slices.ContainsFunc(pod.Spec.InitContainers, ours) || slices.ContainsFunc(pod.Spec.Containers, ours) {
		c.report.Error(object, "initContainers", "is half injected: it has a container of ours and no annotation %s", api.WorkloadAnnotation)
		return
	}
	if c.options.EveryWorkload && !pod.Spec.HostNetwork && pod.Annotations[api.InjectAnnotation] != "disabled" {
		c.report.Error(object, "", "is not in the mesh; was the function skipped (kustomize without --enable-exec skips it silently)? On purpose it is with the annotation %s: disabled",
			api.InjectAnnotation)
		return
	}
	c.outside(object, whyOutside(pod.Spec.HostNetwork))
}

// parts are the containers of an injected pod.
type parts struct {
	native      bool // the sidecar is an init container that keeps running
	init, proxy corev1.Container
	others      []corev1.Container
}

// takeApart finds what is ours where it must stand; otherwise it names the field that is wrong.
func takeApart(spec corev1.PodSpec) (p parts, field string, err error) {
	inits, containers := spec.InitContainers, spec.Containers
	if !slices.ContainsFunc(containers, func(x corev1.Container) bool { return x.Name == api.ProxyName }) {
		if len(inits) < 2 || inits[0].Name != api.InitName || inits[1].Name != api.ProxyName {
			return parts{}, "initContainers", fmt.Errorf("must start with %s and %s", api.InitName, api.ProxyName)
		}
		return parts{native: true, init: inits[0], proxy: inits[1], others: slices.Concat(inits[2:], containers)}, "", nil
	}
	last := len(inits) - 1
	switch {
	case containers[0].Name != api.ProxyName:
		return parts{}, "containers", fmt.Errorf("must start with %s, or the app starts before it", api.ProxyName)
	case last < 0 || inits[last].Name != api.InitName:
		return parts{}, "initContainers", fmt.Errorf("must end with %s, as no init container after it would reach the network", api.InitName)
	}
	for _, x := range inits[:last] {
		if x.RestartPolicy != nil && *x.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			return parts{}, "initContainers", fmt.Errorf("must not hold the native sidecar %q: it starts before the redirect and opens connections in the clear", x.Name)
		}
	}
	return parts{init: inits[last], proxy: containers[0], others: slices.Concat(inits[:last], containers[1:])}, "", nil
}

// proxy checks the sidecar and returns its user.
func (c *checker) proxy(object report.Object, found parts) int64 {
	p, list := found.proxy, "containers"
	if found.native {
		list = "initContainers"
	}
	wrong := func(format string, args ...any) {
		c.report.Error(object, list+"["+api.ProxyName+"]", format, args...)
	}
	s := p.SecurityContext
	if s == nil || s.RunAsUser == nil || *s.RunAsUser == 0 || s.Capabilities == nil || !slices.EqualFunc(s.Capabilities.Drop, []corev1.Capability{"ALL"}, manifest.SameCapability) || len(s.Capabilities.Add) > 0 {
		wrong("must run as a user of its own without any capability")
	}
	if found.native {
		checkNative(p, wrong)
	} else {
		checkHooks(p, wrong)
	}
	if !slices.ContainsFunc(p.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.Name == api.VolumeName && m.MountPath == api.Directory && m.SubPath == ""
	}) {
		wrong("must mount the volume %q at %s", api.VolumeName, api.Directory)
	}
	if len(p.VolumeMounts) > 1 && slices.ContainsFunc(p.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.Name != api.VolumeName && strings.HasPrefix(path.Clean(m.MountPath)+"/", api.Directory+"/")
	}) {
		wrong("must mount nothing else below %s", api.Directory)
	}
	if len(p.Command) > 0 {
		wrong("must have no command, so that the image runs %s", podplan.ProxyBinary)
	}
	if _, err := podplan.ParseProxyArgs(p.Args, io.Discard); err != nil {
		wrong("args: %v", err)
	}
	if len(p.EnvFrom) > 0 || slices.ContainsFunc(p.Env, func(e corev1.EnvVar) bool { return e.Name == podplan.FIPSVariable }) && !runsFIPS(p) {
		wrong("must have no %s but %q, and no envFrom: that variable can weaken TLS", podplan.FIPSVariable, podplan.FIPSValue)
	}
	if s == nil || s.RunAsUser == nil {
		return -1
	}
	return *s.RunAsUser
}

// runsFIPS tells whether a proxy runs in FIPS 140-3 mode. The last of several variables of one name counts.
func runsFIPS(p corev1.Container) bool {
	fips := false
	for _, e := range p.Env {
		if e.Name == podplan.FIPSVariable {
			fips = e.Value == podplan.FIPSValue
		}
	}
	return fips
}

func checkNative(p corev1.Container, wrong func(string, ...any)) {
	if p.RestartPolicy == nil || *p.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		wrong("must have restartPolicy: Always, or the pod waits for it for ever")
	}
	if p.StartupProbe == nil {
		wrong("must have a startupProbe, so that the app starts only once mutual TLS works")
	}
}

func checkHooks(p corev1.Container, wrong func(string, ...any)) {
	if p.RestartPolicy != nil {
		wrong("must not have a restartPolicy, which is for init containers")
	}
	var postStart, preStop *corev1.LifecycleHandler
	if p.Lifecycle != nil {
		postStart, preStop = p.Lifecycle.PostStart, p.Lifecycle.PreStop
	}
	if hook(postStart).Wait == nil {
		wrong("must have the postStart hook %q, so that the app starts only once mutual TLS works", podplan.ProxyBinary+" wait")
	}
	if hook(preStop).Drain == nil {
		wrong("must have the preStop hook %q, or it ends before the app has", podplan.ProxyBinary+" drain")
	}
}

// hook reads a lifecycle hook that runs the proxy's binary; it is empty for any other.
func hook(h *corev1.LifecycleHandler) podplan.ProxyCommand {
	if h == nil || h.Exec == nil || len(h.Exec.Command) == 0 || h.Exec.Command[0] != podplan.ProxyBinary {
		return podplan.ProxyCommand{}
	}
	command, err := podplan.ParseProxyCommand(h.Exec.Command[1:], io.Discard)
	if err != nil {
		return podplan.ProxyCommand{}
	}
	return command
}

// init checks the init container and returns its arguments.
func (c *checker) init(object report.Object, i corev1.Container, uid int64) podplan.InitArgs {
	wrong := func(format string, args ...any) {
		c.report.Error(object, "initContainers["+api.InitName+"]", format, args...)
	}
	if s := i.SecurityContext; s == nil || s.RunAsUser == nil || *s.RunAsUser != 0 || s.Capabilities == nil || !addsNetAdmin(s.Capabilities) {
		wrong("must run as uid 0 with the capability NET_ADMIN, or it cannot route the pod's traffic through the proxy")
	}
	if len(i.Command) > 0 {
		wrong("must have no command, or it may not route the pod's traffic through the proxy")
	}
	args, err := podplan.ParseInitArgs(i.Args, io.Discard)
	if err != nil {
		wrong("args: %v", err)
	} else if int64(args.ProxyUID) != uid {
		wrong("args: lets uid %d pass, and the proxy runs as %d", args.ProxyUID, uid)
	}
	return args
}

func addsNetAdmin(c *corev1.Capabilities) bool {
	return slices.ContainsFunc(c.Add, func(x corev1.Capability) bool { return manifest.SameCapability(x, "NET_ADMIN") })
}

// others checks that nobody else has the proxy's user or files.
func (c *checker) others(object report.Object, pod corev1.PodTemplateSpec, others []corev1.Container, uid int64) {
	if s := pod.Spec.SecurityContext; s != nil && s.RunAsUser != nil && *s.RunAsUser == uid {
		c.report.Error(object, "securityContext.runAsUser", "is %d, which is the proxy's", uid)
	}
	for _, x := range others {
		if s := x.SecurityContext; s != nil && s.RunAsUser != nil && *s.RunAsUser == uid {
			c.report.Error(object, "containers["+x.Name+"]", "runs as uid %d, which is the proxy's: its traffic bypasses the proxy", uid)
		}
		if slices.ContainsFunc(x.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == api.VolumeName }) {
			c.report.Error(object, "containers["+x.Name+"]", "mounts the volume %q, which holds the proxy's identity", api.VolumeName)
		}
	}
}

// handlers checks that what the kubelet asks for reaches the proxy: it has no certificate for the app's own ports.
func (c *checker) handlers(object report.Object, others []corev1.Container, w *podplan.Workload, excluded netset.Ports) {
	check := func(container, field string, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction) {
		port := 0
		switch {
		case get != nil && get.Host == "":
			key := podplan.HandlerKey(container, field)
			_, known := w.Handlers[key]
			if ours := get.Port == intstr.FromInt(api.HealthPort); ours && known && get.Path == podplan.HandlerPath(key) {
				return
			}
			port = get.Port.IntValue()
		case tcp != nil && tcp.Host == "":
			port = tcp.Port.IntValue()
		case grpc != nil:
			port = int(grpc.Port)
		default:
			return
		}
		if !excluded.Contains(uint16(port)) {
			c.report.Error(object, "containers["+container+"]."+field, "does not go through the proxy's health port, so the kubelet would be refused; render again")
		}
	}
	for _, x := range others {
		for field, p := range map[string]*corev1.Probe{"livenessProbe": x.LivenessProbe, "readinessProbe": x.ReadinessProbe, "startupProbe": x.StartupProbe} {
			if p != nil {
				check(x.Name, field, p.HTTPGet, p.TCPSocket, p.GRPC)
			}
		}
		if x.Lifecycle != nil && x.Lifecycle.PostStart != nil {
			check(x.Name, "postStart", x.Lifecycle.PostStart.HTTPGet, x.Lifecycle.PostStart.TCPSocket, nil)
		}
		if x.Lifecycle != nil && x.Lifecycle.PreStop != nil {
			check(x.Name, "preStop", x.Lifecycle.PreStop.HTTPGet, x.Lifecycle.PreStop.TCPSocket, nil)
		}
	}
}

// services checks that every mesh map knows every Service of the mesh with all that may answer for it: a Service that a
// map lacks would be dialed in the clear.
func (c *checker) services(items []*yaml.RNode) {
	index := &manifest.Index{}
	for _, w := range c.injected {
		index.Add(w.object.Namespace, w.labels)
	}
	known := c.distinctMaps()
	for _, item := range items {
		if item.GetKind() == "Service" && item.GetApiVersion() == "v1" {
			c.service(item, index, known)
		}
	}
}

// knownServices is what mesh maps of the same Services say: the identities by host.
type knownServices struct {
	clusterDomain string
	identities    map[string][]string
	namespaces    []string // of the maps
}

// distinctMaps puts namespaces together whose maps have the same Services: that of every namespace of a package does.
func (c *checker) distinctMaps() []*knownServices {
	known := map[meshmap.Digest]*knownServices{}
	var distinct []*knownServices
	for _, namespace := range slices.Sorted(maps.Keys(c.meshes)) {
		mesh := c.meshes[namespace]
		digest := mesh.ServicesDigest()
		if known[digest] == nil {
			known[digest] = &knownServices{clusterDomain: mesh.ClusterDomain, identities: make(map[string][]string, len(mesh.Services))}
			for _, s := range mesh.Services {
				known[digest].identities[s.Host] = s.Identities
			}
			distinct = append(distinct, known[digest])
		}
		known[digest].namespaces = append(known[digest].namespaces, namespace)
	}
	return distinct
}

func (c *checker) service(item *yaml.RNode, index *manifest.Index, all []*knownServices) {
	object := report.ObjectOf(item)
	var service corev1.Service
	if node.Decode(item, &service) != nil {
		c.report.Error(object, "", "cannot be read")
		return
	}
	var identities []string
	if service.Spec.Type != corev1.ServiceTypeExternalName {
		for _, n := range index.Select(object.Namespace, service.Spec.Selector) {
			identities = append(identities, c.injected[n].identity)
		}
	}
	slices.Sort(identities)
	var lacking []string // namespaces
	for _, known := range all {
		host := fmt.Sprintf("%s.%s.svc.%s", service.Name, namespaceOf(object), known.clusterDomain)
		if len(identities) > 0 && !slices.Equal(known.identities[host], identities) {
			lacking = append(lacking, known.namespaces...)
		}
	}
	slices.Sort(lacking)
	for _, namespace := range lacking {
		c.report.Error(object, "", "is not in the mesh map of namespace %q with the workloads that it selects; render the whole package again", namespace)
	}
}

func namespaceOf(o report.Object) string {
	if o.Namespace == "" {
		return "default"
	}
	return o.Namespace
}
