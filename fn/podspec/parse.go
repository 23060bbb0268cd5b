package podspec

import (
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// ParseError says what keeps a pod template from being read as a plan.
type ParseError struct {
	Field string // below the pod template, like spec.volumes
	Err   error
}

func (e *ParseError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap is what is wrong with the field.
func (e *ParseError) Unwrap() error { return e.Err }

// Injected tells whether a pod template holds anything that only an injection writes.
func Injected(pod *corev1.PodTemplateSpec) bool {
	_, annotated := pod.Annotations[api.WorkloadAnnotation]
	ours := func(c corev1.Container) bool { return c.Name == api.InitName || c.Name == api.ProxyName }
	return annotated || slices.ContainsFunc(pod.Spec.InitContainers, ours) || slices.ContainsFunc(pod.Spec.Containers, ours)
}

// Parse reads a plan out of a pod template. It takes what the plan says from where it stands, and judges nothing else:
// whether the rest is what Write writes shows when it is written again. A part that is missing, stands twice or cannot
// be read is a *ParseError.
func Parse(pod *corev1.PodTemplateSpec) (*podplan.Plan, error) {
	p := &podplan.Plan{}
	text, ok := pod.Annotations[api.WorkloadAnnotation]
	if !ok {
		return nil, wrong("metadata.annotations", "is half injected: it has a container of ours and no annotation %s", api.WorkloadAnnotation)
	}
	workload, err := podplan.ParseWorkload([]byte(text))
	if err != nil {
		return nil, &ParseError{"metadata.annotations[" + api.WorkloadAnnotation + "]", err}
	}
	p.Workload = *workload
	if p.Package = pod.Labels[api.PackageLabel]; p.Package == "" {
		return nil, wrong("metadata.labels["+api.PackageLabel+"]", "is missing: without it nobody finds the pod in DNS as one of the mesh; render again, after whatever takes it out")
	}
	if err := parseInit(p, pod.Spec.InitContainers); err != nil {
		return nil, err
	}
	if err := parseProxy(p, &pod.Spec); err != nil {
		return nil, err
	}
	return p, parseVolume(&p.Files, pod.Spec.Volumes)
}

func parseInit(p *podplan.Plan, containers []corev1.Container) error {
	i, err := theOnly(containers, "spec.initContainers", api.InitName)
	if err != nil {
		return err
	}
	c, err := podplan.ParseInitCommand(containers[i].Args, io.Discard)
	switch {
	case err != nil:
		return &ParseError{fmt.Sprintf("spec.initContainers[%d].args", i), err}
	case c.Remove:
		return wrong(fmt.Sprintf("spec.initContainers[%d].args", i), "takes rules out (%s), and a pod needs them; render again", podplan.InitRemove)
	case c.Resolver != nil:
		p.Redirect, p.Serve.Direct = *c.Resolver, &podplan.Direct{}
	default:
		p.Redirect = *c.Apply
	}
	p.Init = parseContainer(containers[i])
	return nil
}

func parseProxy(p *podplan.Plan, spec *corev1.PodSpec) error {
	list, field := spec.InitContainers, "spec.initContainers"
	p.Native = !slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == api.ProxyName })
	if !p.Native {
		list, field = spec.Containers, "spec.containers"
	}
	i, err := theOnly(list, field, api.ProxyName)
	if err != nil {
		return err
	}
	c, resolver := list[i], p.NoRedirect()
	if p.Serve, err = podplan.ParseProxyArgs(c.Args, io.Discard); err != nil {
		return &ParseError{fmt.Sprintf("%s[%d].args", field, i), err}
	}
	if p.NoRedirect() != resolver {
		return wrong(fmt.Sprintf("%s[%d].args", field, i), "and those of %s are of two modes: either both have no redirect rules (%s and %s), or neither; render again", api.InitName, "--no-redirect", podplan.InitResolver)
	}
	p.Serve.Directory = api.Directory // no manifest says another
	p.Proxy, p.FIPS140 = parseContainer(c), runsFIPS(c)
	if !p.Native && c.Lifecycle != nil {
		if drain := hook(c.Lifecycle.PreStop).Drain; drain != nil {
			p.DrainDelay = drain.Delay
		}
	}
	return nil
}

// theOnly is the index of the container of that name.
func theOnly(containers []corev1.Container, field, name string) (int, error) {
	named := func(c corev1.Container) bool { return c.Name == name }
	i := slices.IndexFunc(containers, named)
	switch {
	case i < 0:
		return 0, wrong(field, "lacks the container %s; a later transformer or patch has moved or removed it", name)
	case slices.ContainsFunc(containers[i+1:], named):
		return 0, wrong(field, "has the container %s twice", name)
	}
	return i, nil
}

func parseContainer(c corev1.Container) podplan.Container {
	out := podplan.Container{Image: c.Image, PullPolicy: string(c.ImagePullPolicy)}
	if len(c.Resources.Limits)+len(c.Resources.Requests) > 0 {
		out.Resources = ResourcesOf(c.Resources)
	}
	return out
}

// ResourcesOf are quantities in their one spelling; claims, which need another field of the pod, are left out.
func ResourcesOf(r corev1.ResourceRequirements) *podplan.Resources {
	return &podplan.Resources{Requests: quantities(r.Requests), Limits: quantities(r.Limits)}
}

// Derive completes a plan with what the pod itself decides: its handlers, the time that its grace period leaves, and
// without redirect rules the ports of its containers.
// The pod is one without injection. What cannot be resolved is handed to refuse.
func Derive(p *podplan.Plan, pod *corev1.PodSpec, refuse func(field string, err error)) {
	p.SetGracePeriod(pod.TerminationGracePeriodSeconds)
	p.Workload.Handlers = Handlers(pod, p.Redirect.ExcludeInboundPorts, refuse)
	if d := p.Serve.Direct; d != nil { // the plan may share it
		p.Serve.Direct = &podplan.Direct{Ports: d.Ports.Union(ContainerPorts(pod)).Minus(p.Redirect.ExcludeInboundPorts), AppAddress: d.AppAddress}
	}
}

// ContainerPorts are the TCP ports of those of the app's containers that run as long as the pod.
func ContainerPorts(pod *corev1.PodSpec) (ports netset.Ports) {
	add := func(c corev1.Container) {
		if c.Name == api.ProxyName {
			return
		}
		for _, p := range c.Ports {
			if (p.Protocol == corev1.ProtocolTCP || p.Protocol == "") && 0 < p.ContainerPort && p.ContainerPort <= 65535 {
				ports = append(ports, netset.PortsOf(uint16(p.ContainerPort))...)
			}
		}
	}
	for _, c := range pod.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for _, c := range pod.Containers {
		add(c)
	}
	return ports.Union()
}

func quantities(list corev1.ResourceList) map[string]string {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]string, len(list))
	for name, q := range list {
		out[string(name)] = q.String()
	}
	return out
}

// runsFIPS tells whether a proxy runs in FIPS 140-3 mode. The last of several variables of one name counts.
func runsFIPS(c corev1.Container) bool {
	fips := false
	for _, e := range c.Env {
		if e.Name == podplan.FIPSVariable {
			fips = e.Value == podplan.FIPSValue
		}
	}
	return fips
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

// parseVolume reads where the files of the proxy's volume come from. The last source of a file counts, as it does for
// the kubelet.
func parseVolume(f *podplan.Files, volumes []corev1.Volume) error {
	i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == api.VolumeName })
	if i < 0 || volumes[i].Projected == nil {
		return wrong("spec.volumes", "lacks the projected volume %q; render again", api.VolumeName)
	}
	for _, source := range volumes[i].Projected.Sources {
		if s := source.Secret; s != nil {
			for _, item := range s.Items {
				switch item.Path {
				case api.LeafFile:
					f.LeafSecret = s.Name
				case api.SealedKeyFile, api.PlainKeyFile:
					f.KeyFile = item.Path
				case api.IdentityFile:
					f.Identity = podplan.Source{Name: s.Name, Key: item.Key}
				}
			}
		}
		if s := source.ConfigMap; s != nil {
			for _, item := range s.Items {
				switch item.Path {
				case api.BundleFile:
					f.Bundle = podplan.Source{Name: s.Name, Key: item.Key}
				case api.MeshFile:
					if strings.HasPrefix(s.Name, api.HookMeshPrefix) {
						f.Mesh = s.Name
					}
				}
			}
		}
	}
	if f.LeafSecret == "" || f.KeyFile == "" {
		return wrong(fmt.Sprintf("spec.volumes[%d].projected.sources", i), "must take %s and %s from one Secret", api.LeafFile, api.SealedKeyFile)
	}
	return nil
}

func wrong(field, format string, args ...any) error {
	return &ParseError{field, fmt.Errorf(format, args...)}
}
