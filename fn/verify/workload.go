package verify

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// pod is one pod template of the input.
type pod struct {
	item     *yaml.RNode
	object   report.Object
	at       manifest.Template
	template *yaml.Node
	spec     corev1.PodTemplateSpec
	plan     *podplan.Plan // nil for one that is not injected
	// of a declared workload, whose template its policy carries
	declaration *manifest.Declaration
}

// field is the path of a field of the template.
func (p *pod) field(below string) string {
	return report.Below(p.at.Field(), below)
}

// name is that of the workload: the one that its identity has, where that may be.
func (p *pod) name() string {
	if p.plan != nil {
		if name := path.Base(p.plan.Workload.SPIFFEID); p.at.Called(name) {
			return name
		}
	}
	return p.at.Name
}

// namespace is where the pods run.
func (p *pod) namespace() string { return manifest.EffectiveNamespace(p.object) }

// workload checks one workload: injected whole, or not at all and on purpose.
func (c *checker) workload(item *yaml.RNode, at manifest.Template) {
	p := &pod{item: item, object: report.ObjectOf(item), at: at, template: node.At(item.YNode(), at.Path...)}
	if err := node.Decode(yaml.NewRNode(p.template), &p.spec); err != nil {
		c.report.Error(p.object, at.Field(), "cannot be read: %v", err)
		return
	}
	c.pods = append(c.pods, p)
	if !podspec.Injected(&p.spec) {
		c.uninjected(p)
		return
	}
	plan, err := podspec.Parse(&p.spec)
	if err != nil {
		c.unread = true
		var wrong *podspec.ParseError
		if errors.As(err, &wrong) {
			c.report.Error(p.object, p.field(wrong.Field), "%v", wrong.Err)
		}
		return
	}
	p.plan = plan
	c.identity(p)
	if !c.options.JustWritten {
		c.rewritten(p)
	}
	c.injected = append(c.injected, p)
	c.exclusions(p)
	c.overrides(p)
	if err := podspec.Validate(plan); err != nil {
		c.report.Error(p.object, p.field("spec"), "%v; render again", err)
	}
	c.others(p)
	c.volume(p)
}

// identity checks that a workload is still called what its identity says.
func (c *checker) identity(p *pod) {
	id := p.plan.ID()
	want, err := api.WorkloadID(id.TrustDomain(), p.namespace(), strings.ToLower(p.object.Kind), p.name())
	if err != nil || want != id {
		field := "metadata.name"
		if p.at.Name != p.object.Name {
			field = p.at.Field()
		}
		c.report.Error(p.object, field, "is not what its identity %s says; render after what renames or moves it (the function belongs last into the outermost overlay)", id)
	}
}

func (c *checker) uninjected(p *pod) {
	ours := func(x corev1.Container) bool { return strings.HasPrefix(x.Name, api.NamePrefix) }
	for list, containers := range map[string][]corev1.Container{"initContainers": p.spec.Spec.InitContainers, "containers": p.spec.Spec.Containers} {
		if i := slices.IndexFunc(containers, ours); i >= 0 {
			c.report.Error(p.object, p.field(fmt.Sprintf("spec.%s[%d].name", list, i)), "is a name of meshless, and the pod is half injected: it has no annotation %s", api.WorkloadAnnotation)
			return
		}
	}
	disabled := p.spec.Annotations[api.InjectAnnotation] == "disabled"
	switch {
	case p.spec.Spec.HostNetwork:
		c.outside(p.object, "hostNetwork: true")
	case manifest.WindowsField(&p.spec.Spec) != "":
		c.outside(p.object, "a Windows pod")
	case c.options.EveryWorkload && !disabled:
		c.report.Error(p.object, p.field("metadata.annotations"), "is not in the mesh; was the function skipped (kustomize without --enable-exec skips it silently)? On purpose it is with the annotation %s: disabled",
			api.InjectAnnotation)
	default:
		c.outside(p.object, api.InjectAnnotation+": disabled")
	}
}

// rewritten takes the injection out of a copy, writes the plan anew, and reports every field of the template that is
// then another. What the pod itself decides is derived from it again.
func (c *checker) rewritten(p *pod) {
	template, err := rewrite(p, func(field string, err error) { c.report.Error(p.object, p.field(field), "%v", err) })
	if err != nil {
		c.report.Error(p.object, p.field("metadata.annotations"), "%v", err)
		return
	}
	if equal(p.template, template) { // most often; what follows takes time and memory
		return
	}
	have, errHave := node.Values(p.template)
	want, errWant := node.Values(template)
	if err := errors.Join(errHave, errWant); err != nil {
		c.report.Error(p.object, p.field("spec"), "cannot be compared: %v", err)
		return
	}
	root := p.at.Field()
	for _, d := range compare(root, have, want) {
		below := strings.TrimPrefix(strings.TrimPrefix(d.path, root), ".")
		c.report.Error(p.object, strings.TrimPrefix(d.path, "."), "%s%s", d, p.reason(below))
	}
}

// rewrite is the template as a render would write it.
func rewrite(p *pod, refuse func(field string, err error)) (*yaml.Node, error) {
	template, stripped, err := strip(p)
	if err != nil {
		return nil, err
	}
	if len(stripped.Spec.Containers) == 0 {
		return nil, errors.New("the pod has no container but the proxy")
	}
	plan := *p.plan
	podspec.Derive(&plan, &stripped.Spec, refuse)
	return template, inject.Apply(template, stripped, &plan, &node.Shared{}, refuse)
}

// strip is a copy of the template without the injection, in both forms.
func strip(p *pod) (*yaml.Node, *corev1.PodTemplateSpec, error) {
	item := p.item.Copy()
	if node.HasAlias(item.YNode()) {
		if err := item.DeAnchor(); err != nil {
			return nil, nil, err
		}
	}
	if err := inject.Strip(item, p.at.Path); err != nil {
		return nil, nil, err
	}
	template := node.At(item.YNode(), p.at.Path...)
	var stripped corev1.PodTemplateSpec
	return template, &stripped, node.Decode(yaml.NewRNode(template), &stripped)
}

// reason is why a field of ours must be what it is, where somebody may ask.
func (p *pod) reason(field string) string {
	init, proxy := p.place(api.InitName), p.place(api.ProxyName)
	under := func(prefix, key string) bool {
		return prefix != "" && (field == prefix+"."+key || strings.HasPrefix(field, prefix+"."+key+".") || strings.HasPrefix(field, prefix+"."+key+"["))
	}
	switch {
	case field == "spec.initContainers" && p.plan.Native:
		return "; it must start with meshless-init and meshless-proxy, before whatever needs the mesh"
	case field == "spec.initContainers":
		return "; it must end with meshless-init, as no init container after it would reach the network"
	case field == "spec.containers":
		return "; it must start with meshless-proxy, or the app starts before it"
	case under(init, "securityContext") && p.plan.NoRedirect():
		return "; init writes one file here, as the proxy's user and without any capability"
	case under(init, "securityContext"):
		return "; init needs uid 0 and the capability NET_ADMIN, and nothing else, to route the pod's traffic through the proxy"
	case under(init, "command"), under(proxy, "command"):
		return "; the image runs its one program, and another may not protect the pod"
	case under(proxy, "securityContext"):
		return "; the proxy runs as a user of its own without any capability"
	case under(proxy, "restartPolicy") && p.plan.Native:
		return "; otherwise the pod waits for the proxy for ever"
	case under(proxy, "startupProbe"), under(proxy, "lifecycle.postStart"):
		return "; it lets the app start only once mutual TLS works"
	case under(proxy, "lifecycle"):
		return "; it keeps the proxy until the app has ended"
	case under(proxy, "env"), under(proxy, "envFrom"):
		return "; the environment of a Go program can weaken TLS and print what it holds"
	case p.plan.NoRedirect() && (strings.Contains(field, ".volumeMounts") || strings.HasPrefix(field, "spec.securityContext.sysctls")):
		return "; without redirect rules the app's DNS leads it to the proxy, by its resolv.conf and port 53"
	case under(proxy, "volumeMounts"), strings.HasPrefix(field, "spec.volumes"):
		return "; the proxy reads leaf, key, bundle and mesh map there, and nothing else"
	case strings.Contains(field, "Probe") || strings.Contains(field, ".lifecycle."):
		return "; it does not go through the proxy's health port, so the kubelet would be refused: render again"
	}
	return "; render again, after whatever changes it"
}

// place is the path of one of our containers, or "".
func (p *pod) place(name string) string {
	for list, containers := range map[string][]corev1.Container{"initContainers": p.spec.Spec.InitContainers, "containers": p.spec.Spec.Containers} {
		if i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			return fmt.Sprintf("spec.%s[%d]", list, i)
		}
	}
	return ""
}

// others checks that nobody else has the proxy's user, files or Secrets, and that nothing of the pod takes the redirect
// away.
func (c *checker) others(p *pod) {
	uid := int64(p.plan.Redirect.ProxyUID)
	if p.spec.Spec.HostNetwork {
		c.report.Error(p.object, p.field("spec.hostNetwork"), "is true in an injected pod: init would redirect the traffic of the node itself; take it out, or the injection (%s: disabled)", api.InjectAnnotation)
	}
	if s := p.spec.Spec.SecurityContext; s != nil && s.RunAsUser != nil && *s.RunAsUser == uid {
		c.report.Error(p.object, p.field("spec.securityContext.runAsUser"), "is %d, which is the proxy's", uid)
	}
	for list, containers := range map[string][]corev1.Container{"initContainers": p.spec.Spec.InitContainers, "containers": p.spec.Spec.Containers} {
		for i, x := range containers {
			if x.Name == api.InitName || x.Name == api.ProxyName {
				continue
			}
			at := p.field(fmt.Sprintf("spec.%s[%d]", list, i))
			if s := x.SecurityContext; s != nil && s.RunAsUser != nil && *s.RunAsUser == uid {
				c.report.Error(p.object, at+".securityContext.runAsUser", "container %q runs as uid %d, which is the proxy's: its traffic bypasses the proxy", x.Name, uid)
			}
			if j := slices.IndexFunc(x.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == api.VolumeName }); j >= 0 {
				c.report.Error(p.object, fmt.Sprintf("%s.volumeMounts[%d]", at, j), "container %q mounts the volume %q, which holds the proxy's identity", x.Name, api.VolumeName)
			}
			if always := corev1.ContainerRestartPolicyAlways; list == "initContainers" && !p.plan.Native && x.RestartPolicy != nil && *x.RestartPolicy == always {
				c.report.Error(p.object, at+".restartPolicy", "container %q is a native sidecar beside a proxy that is none: it starts before the redirect and opens connections in the clear", x.Name)
			}
		}
	}
}

// readers reports apps that get at a Secret of ours: the key of a workload, or the age identity that opens the keys of
// its namespace.
func (c *checker) readers() {
	identities := map[string]bool{}
	for _, p := range c.injected {
		identities[p.namespace()+"/"+p.plan.Files.Identity.Name] = true
	}
	for _, p := range c.pods {
		for _, use := range podspec.SecretUses(&p.spec.Spec) {
			if identities[p.namespace()+"/"+use.Secret] || strings.HasPrefix(use.Secret, api.NamePrefix) {
				c.report.Error(p.object, p.field(use.Field), "hands the Secret %q to the app; it is the proxies', and holds a key or what opens keys. Take it out", use.Secret)
			}
		}
	}
}

// exclusions reports, where exclusions are forbidden, what a workload of the mesh sends or takes without mutual TLS, in
// one line. It reads the plan, so it does not matter whether config or annotations said it.
func (c *checker) exclusions(p *pod) {
	if !c.options.NoExclusions {
		return
	}
	var mode meshmap.Mode
	if mesh := c.meshes[p.namespace()]; mesh != nil {
		mode = mesh.Inbound.Mode
	}
	if list := p.plan.Exclusions(mode); len(list) > 0 {
		c.report.Error(p.object, p.field("spec"), "has exclusions (%s), which --no-exclusions forbids: take them out of its annotations or the config", strings.Join(list, "; "))
	}
}

// outside reports, where exclusions are forbidden, a workload without a proxy.
func (c *checker) outside(object report.Object, why string) {
	if c.options.NoExclusions {
		c.report.Error(object, "", "is not in the mesh (%s), which --no-exclusions forbids", why)
	}
}

// referred reports objects whose pods are made of another's template, which is not in the mesh or not in the input.
func (c *checker) referred() {
	for _, reference := range c.references {
		standing := manifest.NotThere
		for _, p := range c.pods {
			switch {
			case manifest.Key(p.object) != manifest.Key(reference.To):
			case p.plan != nil:
				standing = manifest.InMesh
			case standing == manifest.NotThere:
				standing = manifest.NotInMesh
			}
		}
		if c.options.EveryWorkload {
			reference.Warn(standing, c.report)
		}
		if standing != manifest.InMesh {
			c.outside(reference.From, fmt.Sprintf("%s takes the pod template of %s, which is not in the mesh or not in the input", reference.Field, reference.To))
		}
	}
}

// asWorkload is the pod as a render would read it.
func (p *pod) asWorkload() *manifest.Workload {
	w := &manifest.Workload{Node: p.item, Object: p.object, Kind: p.object.Kind, Name: p.name(), Namespace: p.namespace(), TemplatePath: p.at.Path, Pod: p.spec, Plan: p.plan, Declaration: p.declaration}
	if p.plan != nil {
		w.ID = p.plan.ID()
	}
	return w
}
