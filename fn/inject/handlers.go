package inject

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// handlerFields are where a container keeps its handlers, by the name that podplan.HandlerKey uses.
var handlerFields = []struct {
	name string
	path []string
}{
	{"livenessProbe", []string{"livenessProbe"}},
	{"readinessProbe", []string{"readinessProbe"}},
	{"startupProbe", []string{"startupProbe"}},
	{"postStart", []string{"lifecycle", "postStart"}},
	{"preStop", []string{"lifecycle", "preStop"}},
}

// The kinds of handler that the kubelet performs over the network; exec and sleep need no rewriting.
const (
	httpGet   = "httpGet"
	tcpSocket = "tcpSocket"
	grpc      = "grpc"
)

// rewriteHandlers points the handlers of every container to the proxy's health port, since the kubelet has no
// certificate. It returns what the proxy shall perform instead, and the originals as YAML, by container and field.
func rewriteHandlers(m *manifest.Model, w *manifest.Workload, spec *yaml.Node, r *report.Report) (map[string]podplan.Handler, string, error) {
	handlers, originals := map[string]podplan.Handler{}, node.Object()
	rewrite := func(list string, i int, c corev1.Container) {
		for _, f := range handlerFields {
			at := w.Field(fmt.Sprintf("spec.%s[%d].%s", list, i, strings.Join(f.path, ".")))
			handler, kind, err := networkHandler(c, f.name)
			if err != nil {
				r.Error(w.Object, at, "%v", err)
			}
			if handler == nil || err != nil || m.ExcludedInbound(w).Contains(handlerPort(*handler)) {
				continue
			}
			key := podplan.HandlerKey(c.Name, f.name)
			original, ok := swapHandler(node.Get(node.Get(spec, list).Content[i], f.path...), kind, key)
			if !ok {
				r.Error(w.Object, at, "%s cannot be rewritten; write it as a plain mapping", kind)
				continue
			}
			handlers[key] = *handler
			node.Set(node.Child(originals, c.Name), f.name, node.Object(kind, original))
		}
	}
	for i, c := range w.Pod.Spec.InitContainers {
		rewrite("initContainers", i, c)
	}
	for i, c := range w.Pod.Spec.Containers {
		rewrite("containers", i, c)
	}
	if len(handlers) == 0 {
		return nil, "", nil
	}
	text, err := yaml.NewRNode(originals).String()
	return handlers, text, err
}

// swapHandler replaces the handler of a kind in a probe or lifecycle field with ours and returns the node that was
// there.
func swapHandler(field *yaml.Node, kind, key string) (*yaml.Node, bool) {
	i := node.Index(field, kind)
	if i < 0 {
		return nil, false
	}
	original := field.Content[i]
	field.Content[i-1].Value = httpGet
	field.Content[i] = node.Object("path", podplan.HandlerPath(key), "port", api.HealthPort)
	return original, true
}

// restoreHandler undoes swapHandler where our handler still stands; one that was edited since is the user's.
func restoreHandler(field *yaml.Node, key string, original *yaml.Node) {
	i := node.Index(field, httpGet)
	if i < 0 || original == nil || len(original.Content) != 2 {
		return
	}
	path := node.Get(field.Content[i], "path")
	if path == nil || path.Value != podplan.HandlerPath(key) {
		return
	}
	field.Content[i-1].Value = original.Content[0].Value
	field.Content[i] = original.Content[1]
}

// networkHandler reads a handler of a container as the proxy shall perform it, with its kind; nil when it has none that
// goes over the network. A handler with a host of its own is not for this pod and stays as it is.
func networkHandler(c corev1.Container, field string) (*podplan.Handler, string, error) {
	var lifecycle corev1.Lifecycle
	if c.Lifecycle != nil {
		lifecycle = *c.Lifecycle
	}
	switch field {
	case "livenessProbe":
		return probeHandler(c, c.LivenessProbe)
	case "readinessProbe":
		return probeHandler(c, c.ReadinessProbe)
	case "startupProbe":
		return probeHandler(c, c.StartupProbe)
	case "postStart":
		return lifecycleHandler(c, lifecycle.PostStart)
	}
	return lifecycleHandler(c, lifecycle.PreStop)
}

func probeHandler(c corev1.Container, p *corev1.Probe) (*podplan.Handler, string, error) {
	var h *podplan.Handler
	var kind string
	var err error
	switch {
	case p == nil:
		return nil, "", nil
	case p.HTTPGet != nil:
		kind = httpGet
		h, err = httpHandler(c, p.HTTPGet)
	case p.TCPSocket != nil:
		kind = tcpSocket
		h, err = tcpHandler(c, p.TCPSocket)
	case p.GRPC != nil:
		kind = grpc
		h, err = grpcHandler(c, p.GRPC)
	}
	if h != nil {
		h.TimeoutSeconds = max(p.TimeoutSeconds, 1) // the default of Kubernetes
	}
	return h, kind, err
}

func lifecycleHandler(c corev1.Container, l *corev1.LifecycleHandler) (*podplan.Handler, string, error) {
	switch {
	case l != nil && l.HTTPGet != nil:
		h, err := httpHandler(c, l.HTTPGet)
		return h, httpGet, err
	case l != nil && l.TCPSocket != nil:
		h, err := tcpHandler(c, l.TCPSocket)
		return h, tcpSocket, err
	}
	return nil, "", nil
}

func grpcHandler(c corev1.Container, a *corev1.GRPCAction) (*podplan.Handler, error) {
	port, err := resolvePort(c, intstr.FromInt32(a.Port))
	if err != nil {
		return nil, err
	}
	h := &podplan.GRPC{Port: port}
	if a.Service != nil {
		h.Service = *a.Service
	}
	return &podplan.Handler{GRPC: h}, nil
}

func httpHandler(c corev1.Container, a *corev1.HTTPGetAction) (*podplan.Handler, error) {
	if a.Host != "" {
		return nil, nil
	}
	port, err := resolvePort(c, a.Port)
	if err != nil {
		return nil, err
	}
	h := &podplan.HTTPGet{Port: port, Path: a.Path}
	if a.Scheme == corev1.URISchemeHTTPS {
		h.Scheme = "HTTPS"
	}
	for _, header := range a.HTTPHeaders {
		h.Headers = append(h.Headers, podplan.HTTPHeader{Name: header.Name, Value: header.Value})
	}
	return &podplan.Handler{HTTPGet: h}, nil
}

func tcpHandler(c corev1.Container, a *corev1.TCPSocketAction) (*podplan.Handler, error) {
	if a.Host != "" {
		return nil, nil
	}
	port, err := resolvePort(c, a.Port)
	if err != nil {
		return nil, err
	}
	return &podplan.Handler{TCPSocket: &podplan.TCPSocket{Port: port}}, nil
}

// resolvePort resolves a port as the kubelet does: a number, or a name among the ports of the same container.
func resolvePort(c corev1.Container, p intstr.IntOrString) (uint16, error) {
	number := p.IntVal
	if p.Type == intstr.String {
		if n, err := strconv.ParseInt(p.StrVal, 10, 32); err == nil {
			number = int32(n)
		} else {
			for _, port := range c.Ports {
				if port.Name == p.StrVal {
					return uint16(port.ContainerPort), nil
				}
			}
			return 0, fmt.Errorf("container %q has no port named %q; add it to its ports", c.Name, p.StrVal)
		}
	}
	if number < 1 || number > 65535 {
		return 0, fmt.Errorf("container %q: port %s is not 1 to 65535", c.Name, p.String())
	}
	return uint16(number), nil
}

func handlerPort(h podplan.Handler) uint16 {
	switch {
	case h.HTTPGet != nil:
		return h.HTTPGet.Port
	case h.TCPSocket != nil:
		return h.TCPSocket.Port
	}
	return h.GRPC.Port
}
