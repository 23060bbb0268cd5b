// Package podspec is the Kubernetes form of a plan. Derive completes a plan with what the pod itself decides, Validate
// checks it, Write makes containers, volume and annotations of it, RewriteHandlers points the app's handlers to the
// proxy. Package inject places what they make. Parse reads a plan back, and Parse of what Write wrote is the plan.
// Nothing else knows what an injected pod looks like.
package podspec

import (
	"cmp"
	"maps"
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Parts are what an injection adds to a pod template, beside the handlers that it points to the proxy.
type Parts struct {
	Init, Proxy, Volume *yaml.Node
	Resolver            *Resolver // nil where rules lead the pod's DNS to the proxy
	Annotation          string    // of api.WorkloadAnnotation
	Package             string    // of api.PackageLabel
	Direct              string    // of api.DirectLabel; "" where there is none
}

// Write is the Kubernetes form of a plan. Keys stand in the order in which kpt sorts them.
func Write(p *podplan.Plan) (Parts, error) {
	annotation, err := p.Workload.Marshal()
	return Parts{Init: initContainer(p), Proxy: proxyContainer(p), Volume: volume(p.Files, p.Package), Resolver: resolver(p), Annotation: string(annotation), Package: p.Package, Direct: p.DirectName()}, err
}

// initContainer runs as root: a user that is none gets no added capability, unless its program's file has it and
// allowPrivilegeEscalation is true.
func initContainer(p *podplan.Plan) *yaml.Node {
	if p.NoRedirect() {
		return resolverContainer(p)
	}
	c := container(api.InitName, p.Init, p.Redirect.Args())
	setResources(c, p.Init.Resources)
	node.Set(c, "securityContext", node.Object(
		"allowPrivilegeEscalation", false,
		"capabilities", node.Object("add", initCapabilities(p.Redirect.Backend), "drop", []string{"ALL"}),
		"privileged", false,
		"readOnlyRootFilesystem", true,
		"runAsGroup", p.Redirect.ProxyUID, // nothing needs the group 0
		"runAsNonRoot", false,
		"runAsUser", 0,
		"seccompProfile", node.Object("type", "RuntimeDefault"),
	))
	node.Set(c, "terminationMessagePolicy", node.Text("FallbackToLogsOnError"))
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

func proxyContainer(p *podplan.Plan) *yaml.Node {
	c := container(api.ProxyName, p.Proxy, p.Serve.Args())
	set := func(key string, value any) { node.Set(c, key, node.Value(value)) }
	if p.FIPS140 {
		set("env", node.List(node.Object("name", podplan.FIPSVariable, "value", podplan.FIPSValue)))
	}
	if !p.Native {
		set("lifecycle", hooks(p))
	}
	ready := func() *yaml.Node { return node.Object("path", "/readyz", "port", api.HealthPort) }
	set("ports", node.List(node.Object("containerPort", api.MetricsPort, "name", "mesh-metrics", "protocol", "TCP")))
	set("readinessProbe", node.Object("httpGet", ready(), "periodSeconds", 5))
	setResources(c, p.Proxy.Resources)
	if p.Native {
		set("restartPolicy", "Always")
	}
	set("securityContext", restricted(p.Redirect.ProxyUID))
	if p.Native {
		set("startupProbe", node.Object("failureThreshold", 120, "httpGet", ready(), "periodSeconds", 1))
	}
	set("terminationMessagePolicy", "FallbackToLogsOnError")
	set("volumeMounts", node.List(node.Object("mountPath", api.Directory, "name", api.VolumeName, "readOnly", true)))
	return c
}

// restricted is the security context of a container without any capability, as the level restricted demands it.
func restricted(uid int) *yaml.Node {
	return node.Object(
		"allowPrivilegeEscalation", false,
		"capabilities", node.Object("drop", []string{"ALL"}),
		"privileged", false,
		"readOnlyRootFilesystem", true,
		"runAsGroup", uid,
		"runAsNonRoot", true,
		"runAsUser", uid,
		"seccompProfile", node.Object("type", "RuntimeDefault"),
	)
}

func container(name string, c podplan.Container, args []string) *yaml.Node {
	n := node.Object("name", name, "image", c.Image)
	if c.PullPolicy != "" { // without, Kubernetes decides by the tag
		node.Set(n, "imagePullPolicy", node.Text(c.PullPolicy))
	}
	if len(args) > 0 {
		node.Set(n, "args", node.Value(args))
	}
	return n
}

// hooks are the lifecycle hooks of a proxy that is a plain container.
func hooks(p *podplan.Plan) *yaml.Node {
	run := func(args []string) *yaml.Node {
		return node.Object("exec", node.Object("command", append([]string{podplan.ProxyBinary}, args...)))
	}
	return node.Object("postStart", run(podplan.WaitArgs{Timeout: podplan.DefaultWaitTimeout}.Args()), "preStop", run(p.Drain().Args()))
}

func setResources(container *yaml.Node, r *podplan.Resources) {
	if r == nil {
		return
	}
	n := node.Object()
	for _, part := range []struct {
		key  string
		list map[string]string
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for _, name := range slices.Sorted(maps.Keys(part.list)) {
			node.Set(node.Child(n, part.key), name, node.Text(part.list[name]))
		}
	}
	node.Set(container, "resources", n)
}

// volume is one projected volume: one volume is one atomic swap, so the proxy never sees a leaf without its key or its
// bundle.
func volume(f podplan.Files, pkg string) *yaml.Node {
	item := func(key, path string) *yaml.Node { return node.Object("key", key, "path", path) }
	source := func(kind, name string, items ...*yaml.Node) *yaml.Node {
		return node.Object(kind, node.Object("items", &yaml.Node{Kind: yaml.SequenceNode, Tag: yaml.NodeTagSeq, Content: items}, "name", name))
	}
	leaf := []*yaml.Node{item(api.LeafFile, api.LeafFile), item(f.KeyFile, f.KeyFile)}
	if f.Bundle.Name == "" {
		leaf = append(leaf, item(api.BundleFile, api.BundleFile))
	}
	sources := node.List(source("secret", f.LeafSecret, leaf...))
	add := func(n *yaml.Node) { sources.Content = append(sources.Content, n) }
	if f.Identity.Name != "" {
		add(source("secret", f.Identity.Name, item(f.Identity.Key, api.IdentityFile)))
	}
	if f.Bundle.Name != "" {
		add(source("configMap", f.Bundle.Name, item(f.Bundle.Key, api.BundleFile)))
	}
	add(source("configMap", cmp.Or(f.Mesh, api.MeshName(pkg)), item(api.MeshFile, api.MeshFile)))
	// The API server would fill in apiVersion. Sources are one list without keys, so kubectl apply would see a
	// difference and send a patch every time.
	add(node.Object("downwardAPI", node.Object("items", node.List(node.Object(
		"fieldRef", node.Object("apiVersion", "v1", "fieldPath", workloadField), "path", api.WorkloadFile)))))
	return node.Object("name", api.VolumeName, "projected", node.Object("sources", sources))
}

const workloadField = "metadata.annotations['" + api.WorkloadAnnotation + "']"
