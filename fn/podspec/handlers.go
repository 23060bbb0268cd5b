package podspec

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

type handlerField struct {
	name string
	path []string
}

// handlerFields are where a container keeps its handlers, by the name that podplan.HandlerKey uses.
var handlerFields = []handlerField{
	{"livenessProbe", []string{"livenessProbe"}},
	{"readinessProbe", []string{"readinessProbe"}},
	{"startupProbe", []string{"startupProbe"}},
	{"postStart", []string{"lifecycle", "postStart"}},
	{"preStop", []string{"lifecycle", "preStop"}},
}

// HandlerField is where a container keeps a handler, for package admission.
type HandlerField struct {
	Name  string   // as podplan.HandlerKey has it
	Path  []string // below the container
	Probe bool     // it has a timeout
}

// HandlerFields are where a container keeps its handlers.
func HandlerFields() (list []HandlerField) {
	for _, f := range handlerFields {
		list = append(list, HandlerField{f.name, f.path, f.path[0] != "lifecycle"})
	}
	return list
}

// The kinds of handler that the kubelet performs over the network; exec and sleep need no rewriting.
const (
	httpGet   = "httpGet"
	tcpSocket = "tcpSocket"
	grpc      = "grpc"
)

// Handlers reads the handlers of every container that the kubelet performs over the network, as the proxy shall perform
// them: the kubelet has no certificate. Those of excluded ports, and those with a host of their own, stay as they are.
// What cannot be resolved is handed to refuse, with its field below the pod template.
func Handlers(pod *corev1.PodSpec, excluded netset.Ports, refuse func(field string, err error)) map[string]podplan.Handler {
	var handlers map[string]podplan.Handler
	eachHandler(pod, func(at place) {
		handler, _, err := networkHandler(at.container, at.field.name)
		switch {
		case err != nil:
			refuse(at.path(), err)
		case handler != nil && !excluded.Contains(handlerPort(*handler)):
			if handlers == nil {
				handlers = map[string]podplan.Handler{}
			}
			handlers[at.key()] = *handler
		}
	})
	return handlers
}

// RewriteHandlers points handlers of the plan, by key, to the proxy's health port. It returns the originals as YAML, by
// container and field; "" when there are none. Pod is what spec says. A handler in a form that cannot be edited is
// handed to refuse.
func RewriteHandlers(spec *yaml.Node, pod *corev1.PodSpec, handlers map[string]podplan.Handler, refuse func(field string, err error)) (string, error) {
	if len(handlers) == 0 {
		return "", nil
	}
	originals := node.Object()
	eachHandler(pod, func(at place) {
		if _, ours := handlers[at.key()]; !ours {
			return
		}
		_, kind, _ := networkHandler(at.container, at.field.name)
		original, ok := swapHandler(node.Get(node.Get(spec, at.list).Content[at.index], at.field.path...), kind, at.key())
		if !ok {
			refuse(at.path(), fmt.Errorf("%s cannot be rewritten; write it as a plain mapping", kind))
			return
		}
		node.Set(node.Child(originals, at.container.Name), at.field.name, node.Object(kind, original))
	})
	return originalText(originals)
}

// originalText writes the originals. Those with a list are indented by four: kpt takes the indentation of the first
// list in a document's text for that of all, if it is none or two, and this text stands above the first.
func originalText(originals *yaml.Node) (string, error) {
	if !hasBlockList(originals) {
		return yaml.NewRNode(originals).String()
	}
	var text strings.Builder
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(4)
	encoder.DefaultSeqIndent()
	err := errors.Join(encoder.Encode(originals), encoder.Close())
	return text.String(), err
}

func hasBlockList(n *yaml.Node) bool {
	return n.Style&yaml.FlowStyle == 0 && (n.Kind == yaml.SequenceNode && len(n.Content) > 0 || slices.ContainsFunc(n.Content, hasBlockList))
}

// place is where a container may have a handler.
type place struct {
	list      string // initContainers or containers
	index     int
	container corev1.Container
	field     handlerField
}

func (p place) key() string { return podplan.HandlerKey(p.container.Name, p.field.name) }

func (p place) path() string {
	return fmt.Sprintf("spec.%s[%d].%s", p.list, p.index, strings.Join(p.field.path, "."))
}

func eachHandler(pod *corev1.PodSpec, visit func(place)) {
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", pod.InitContainers}, {"containers", pod.Containers}} {
		for i, c := range list.containers {
			for _, f := range handlerFields {
				visit(place{list.name, i, c, f})
			}
		}
	}
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

// RestoreHandlers puts the handlers of the annotation back. A text that is not what RewriteHandlers returned is an
// error: guessing would lose a probe.
func RestoreHandlers(spec, annotation *yaml.Node) error {
	if annotation == nil {
		return nil
	}
	originals, err := yaml.Parse(annotation.Value)
	if err != nil || originals.YNode().Kind != yaml.MappingNode {
		return fmt.Errorf("annotation %s is damaged; restore the object from Git", api.OriginalAnnotation)
	}
	for _, key := range []string{"initContainers", "containers"} {
		containers := node.Get(spec, key)
		if containers == nil || containers.Kind != yaml.SequenceNode {
			continue
		}
		for _, container := range containers.Content {
			name := node.Get(container, "name")
			if name == nil {
				continue
			}
			for _, f := range handlerFields {
				restoreHandler(node.Get(container, f.path...), podplan.HandlerKey(name.Value, f.name), node.Get(originals.YNode(), name.Value, f.name))
			}
		}
	}
	return nil
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
		} else if i := slices.IndexFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.Name == p.StrVal }); i >= 0 {
			number = c.Ports[i].ContainerPort
		} else {
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
