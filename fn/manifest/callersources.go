package manifest

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
)

// callerSource is a kind of objects that name Services which somebody without an identity may call.
type callerSource struct {
	kind  CallerKind
	root  string   // the part that is read, by its path; CRDs are large
	paths []string // below root, of what names a Service; [] is each entry of a list
	// tells whether the backend is called by TLS of the app's own; nil: never, or always where the API server calls
	tls func(item *yaml.RNode, backend map[string]any) bool
}

// callerSources are known by "<group>/<kind>", in any version.
var callerSources = map[string]callerSource{
	"admissionregistration.k8s.io/ValidatingWebhookConfiguration": {kind: APIServer, root: "webhooks", paths: []string{"[].clientConfig.service"}},
	"admissionregistration.k8s.io/MutatingWebhookConfiguration":   {kind: APIServer, root: "webhooks", paths: []string{"[].clientConfig.service"}},
	"apiregistration.k8s.io/APIService":                           {kind: APIServer, root: "spec", paths: []string{"service"}},
	"apiextensions.k8s.io/CustomResourceDefinition": {kind: APIServer, root: "spec.conversion",
		paths: []string{"webhook.clientConfig.service", "webhookClientConfig.service"}},

	"networking.k8s.io/Ingress": ingress, "extensions/Ingress": ingress,

	"gateway.networking.k8s.io/HTTPRoute": {kind: Router, root: "spec", paths: []string{"rules[].backendRefs[]", "rules[].filters[].requestMirror.backendRef",
		"rules[].backendRefs[].filters[].requestMirror.backendRef"}},
	"gateway.networking.k8s.io/GRPCRoute": {kind: Router, root: "spec", paths: []string{"rules[].backendRefs[]", "rules[].filters[].requestMirror.backendRef",
		"rules[].backendRefs[].filters[].requestMirror.backendRef"}},
	"gateway.networking.k8s.io/TCPRoute": {kind: Router, root: "spec", paths: []string{"rules[].backendRefs[]"}},
	"gateway.networking.k8s.io/TLSRoute": {kind: Router, root: "spec", paths: []string{"rules[].backendRefs[]"}, tls: always},

	"traefik.io/IngressRoute": traefikHTTP, "traefik.containo.us/IngressRoute": traefikHTTP,
	"traefik.io/IngressRouteTCP": traefikTCP, "traefik.containo.us/IngressRouteTCP": traefikTCP,
	"traefik.io/TraefikService": traefikService, "traefik.containo.us/TraefikService": traefikService,

	"route.openshift.io/Route": {kind: Router, root: "spec", paths: []string{"to", "alternateBackends[]"}, tls: func(item *yaml.RNode, _ map[string]any) bool {
		termination := node.Scalar(item.YNode(), "spec", "tls", "termination")
		return termination == "passthrough" || termination == "reencrypt"
	}},
	"projectcontour.io/HTTPProxy": {kind: Router, root: "spec", paths: []string{"routes[].services[]", "tcpproxy.services[]"}, tls: func(item *yaml.RNode, backend map[string]any) bool {
		protocol := scalar(backend["protocol"])
		return protocol == "tls" || protocol == "h2" || node.Scalar(item.YNode(), "spec", "virtualhost", "tls", "passthrough") == "true"
	}},
	"k8s.nginx.org/VirtualServer":      {kind: Router, root: "spec", paths: []string{"upstreams[]"}, tls: nginxTLS},
	"k8s.nginx.org/VirtualServerRoute": {kind: Router, root: "spec", paths: []string{"upstreams[]"}, tls: nginxTLS},
	"k8s.nginx.org/TransportServer":    {kind: Router, root: "spec", paths: []string{"upstreams[]"}},
	"elbv2.k8s.aws/TargetGroupBinding": {kind: Router, root: "spec", paths: []string{"serviceRef"}},
}

var (
	ingress = callerSource{kind: Router, root: "spec", tls: ingressTLS,
		paths: []string{"defaultBackend.service", "rules[].http.paths[].backend.service", "backend", "rules[].http.paths[].backend"}} // the last two before v1
	traefikHTTP = callerSource{kind: Router, root: "spec", paths: []string{"routes[].services[]"},
		tls: func(_ *yaml.RNode, backend map[string]any) bool { return scalar(backend["scheme"]) == "https" }}
	traefikTCP = callerSource{kind: Router, root: "spec", paths: []string{"routes[].services[]"},
		tls: func(item *yaml.RNode, backend map[string]any) bool {
			return node.Scalar(item.YNode(), "spec", "tls", "passthrough") == "true" || scalar(backend["tls"]) == "true"
		}}
	traefikService = callerSource{kind: Router, root: "spec", paths: []string{"weighted.services[]", "mirroring", "mirroring.mirrors[]"}, tls: traefikHTTP.tls}
)

func always(*yaml.RNode, map[string]any) bool { return true }

// nginxTLS tells whether an upstream of NGINX's own kinds is called by TLS.
func nginxTLS(_ *yaml.RNode, backend map[string]any) bool {
	tls, _ := backend["tls"].(map[string]any)
	return scalar(tls["enable"]) == "true"
}

// ingressTLS tells whether the annotations of ingress-nginx or HAProxy ask for TLS to the backends.
func ingressTLS(item *yaml.RNode, _ map[string]any) bool {
	annotations := item.GetAnnotations()
	for _, key := range []string{"nginx.ingress.kubernetes.io/backend-protocol", "haproxy.org/server-ssl", "nginx.ingress.kubernetes.io/ssl-passthrough", "haproxy.org/ssl-passthrough"} {
		switch strings.ToUpper(annotations[key]) {
		case "HTTPS", "GRPCS", "TRUE":
			return true
		}
	}
	return false
}

// read adds the callers that an object names.
func (c *callerReader) read(item *yaml.RNode, source callerSource) {
	part := node.Get(item.YNode(), strings.Split(source.root, ".")...)
	if part == nil {
		return
	}
	var value any
	if err := node.Decode(yaml.NewRNode(part), &value); err != nil {
		_, message := node.FieldOf(err)
		c.unreadable(item, source.root, message)
		return
	}
	for _, path := range source.paths {
		wrong := func(field, want string) { c.unreadable(item, field, "it is no "+want) }
		each(value, path, source.root, wrong, func(field string, backend map[string]any) { c.readBackend(item, source, field, backend) })
	}
}

// readBackend adds the callers of the Service that a mapping names, in the words of one kind or another.
func (c *callerReader) readBackend(item *yaml.RNode, source callerSource, field string, backend map[string]any) {
	name := cmp.Or(scalar(backend["name"]), scalar(backend["serviceName"]), scalar(backend["service"]))
	group, kind := scalar(backend["group"]), cmp.Or(scalar(backend["kind"]), "Service")
	if name == "" || kind != "Service" || group != "" && group != "core" {
		return
	}
	object := report.ObjectOf(item)
	who := caller{kind: source.kind, object: object, field: field}
	service := c.services[serviceKey(cmp.Or(scalar(backend["namespace"]), EffectiveNamespace(object)), name)]
	if source.kind == APIServer {
		who.tls = true
		c.callPort(who, service, cmp.Or(scalar(backend["port"]), "443"))
		return
	}
	who.tls = source.tls != nil && source.tls(item, backend)
	if object.Kind == "Route" {
		c.callRoute(who, service, node.Scalar(item.YNode(), "spec", "port", "targetPort"))
		return
	}
	port := cmp.Or(scalar(backend["port"]), scalar(backend["servicePort"]))
	if choice, ok := backend["port"].(map[string]any); ok {
		port = cmp.Or(scalar(choice["name"]), scalar(choice["number"]))
	}
	c.callPort(who, service, port)
}

// callRoute adds the callers of a Route of OpenShift, which names a port of the Service, or a port of its pods.
func (c *callerReader) callRoute(who caller, s *Service, target string) {
	c.callService(who, s, func(p corev1.ServicePort, w *Workload) bool {
		return target == "" || p.Name == target || strconv.Itoa(int(TargetPort(p, w))) == target
	})
}

// each calls found for every mapping at a path like rules[].backendRefs[]; what is missing or null is none. Wrong is
// told of what is neither, and of what it should be.
func each(value any, path, field string, wrong func(field, want string), found func(field string, backend map[string]any)) {
	if value == nil {
		return
	}
	if rest, list := strings.CutPrefix(path, "[]"); list {
		entries, ok := value.([]any)
		if !ok {
			wrong(field, "list")
			return
		}
		for i, entry := range entries {
			each(entry, strings.TrimPrefix(rest, "."), fmt.Sprintf("%s[%d]", field, i), wrong, found)
		}
		return
	}
	mapping, ok := value.(map[string]any)
	switch end := strings.IndexAny(path, ".["); {
	case !ok:
		wrong(field, "mapping")
	case path == "":
		found(field, mapping)
	case end < 0:
		each(mapping[path], "", report.Below(field, path), wrong, found)
	default:
		each(mapping[path[:end]], strings.TrimPrefix(path[end:], "."), report.Below(field, path[:end]), wrong, found)
	}
}

// scalar is a scalar as text; "" of anything else.
func scalar(value any) string {
	switch value.(type) {
	case string, bool, int64, float64:
		return fmt.Sprint(value)
	}
	return ""
}
