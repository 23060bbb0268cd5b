// Package podplan holds the Plan, which is what one pod is told, and its text forms: the command lines of init and
// proxy, and workload.json. The function writes them into manifests, the programs read them back. Each form has one
// struct, one writer and one strict parser. The package knows no Kubernetes types and does no input or output.
package podplan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Workload is workload.json: what one pod's proxy must know of its own workload. It travels as an annotation of the pod
// template and reaches the proxy by downward API.
type Workload struct {
	SPIFFEID        string       `json:"spiffeID"`
	PermissivePorts netset.Ports `json:"permissivePorts,omitempty"` // beside what meshmap.Inbound.Mode says
	// TLSPassthroughPorts are those on which a client without our ALPN reaches the app with its TLS, which the app
	// terminates.
	TLSPassthroughPorts netset.Ports `json:"tlsPassthroughPorts,omitempty"`
	StrictPorts         netset.Ports `json:"strictPorts,omitempty"` // whatever meshmap.Inbound.Mode says
	// ProxyProtocolPorts are those on which the app reads a PROXY protocol header in front of every connection: who the
	// peer is.
	ProxyProtocolPorts netset.Ports       `json:"proxyProtocolPorts,omitempty"`
	TransparentPorts   netset.Ports       `json:"transparentPorts,omitempty"` // on which the app sees its clients' own addresses
	Handlers           map[string]Handler `json:"handlers,omitempty"`         // by HandlerKey
}

// Handler is a probe or lifecycle handler of the app, with named ports resolved. Exactly one of the three kinds is set.
type Handler struct {
	HTTPGet        *HTTPGet   `json:"httpGet,omitempty"`
	TCPSocket      *TCPSocket `json:"tcpSocket,omitempty"`
	GRPC           *GRPC      `json:"grpc,omitempty"`
	TimeoutSeconds int32      `json:"timeoutSeconds,omitempty"` // of a probe; 0 for lifecycle handlers, which have none
}

// HTTPGet is a GET request to the pod's own address.
type HTTPGet struct {
	// HTTP (default) or HTTPS; the certificate is not verified, as by the kubelet
	Scheme  string       `json:"scheme,omitempty"`
	Port    uint16       `json:"port"`
	Path    string       `json:"path,omitempty"`
	Headers []HTTPHeader `json:"headers,omitempty"`
}

// HTTPHeader is one header line; a repeated name is sent repeatedly.
type HTTPHeader struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TCPSocket succeeds when the port accepts a connection.
type TCPSocket struct {
	Port uint16 `json:"port"`
}

// GRPC is a call of grpc.health.v1.Health/Check without TLS.
type GRPC struct {
	Port    uint16 `json:"port"`
	Service string `json:"service,omitempty"`
}

// HandlerKey names a handler: "<container>/<field>", the field being livenessProbe, readinessProbe, startupProbe,
// postStart or preStop.
func HandlerKey(container, field string) string { return container + "/" + field }

// HandlerPath is where the health port performs the handler of that key.
func HandlerPath(key string) string { return "/handlers/" + key }

// ParseWorkload reads workload.json. Unknown fields, a malformed SPIFFE ID and a handler of no or several kinds are
// errors.
func ParseWorkload(data []byte) (*Workload, error) {
	var w Workload
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&w)
	if err == nil {
		err = putBack(w.Handlers, string(data[decoder.InputOffset():]))
	}
	if err == nil {
		err = w.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", api.WorkloadFile, err)
	}
	return &w, nil
}

// PortMode is what the proxy does with a connection to a port, in a namespace whose mesh map has the given mode. That a
// port does not pass the proxy at all, it does not know.
func (w *Workload) PortMode(port uint16, namespace meshmap.Mode) PortMode {
	switch {
	case w.StrictPorts.Contains(port):
		return PortStrict
	case namespace == meshmap.Permissive || w.PermissivePorts.Contains(port):
		return PortPermissive
	case w.TLSPassthroughPorts.Contains(port):
		return PortTLSPassthrough
	}
	return PortStrict
}

// Marshal is the text that ParseWorkload reads: indented JSON, since people read it in pull requests, and behind it the
// texts in which variables may be substituted.
func (w *Workload) Marshal() ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	written := *w
	var lines string
	written.Handlers, lines = takeApart(w.Handlers)
	err := encoder.Encode(written)
	// nothing is substituted in the JSON itself, where a value could say more than its text
	text := bytes.ReplaceAll(out.Bytes(), []byte(variable), []byte(`\u0024{`))
	return append(text, lines...), err
}

func (w *Workload) validate() error {
	id, err := spiffeid.FromString(w.SPIFFEID)
	if err != nil {
		return fmt.Errorf("spiffeID %q: %w", w.SPIFFEID, err)
	}
	if id.Path() == "" {
		return fmt.Errorf("spiffeID %q names a trust domain, not a workload", w.SPIFFEID)
	}
	for key, h := range w.Handlers {
		if container, field, ok := strings.Cut(key, "/"); !ok || container == "" || field == "" {
			return fmt.Errorf("handler %q: want <container>/<field>", key)
		}
		if err := h.validate(); err != nil {
			return fmt.Errorf("handler %q: %w", key, err)
		}
	}
	return nil
}

func (h Handler) validate() error {
	kinds := 0
	var port uint16
	if h.HTTPGet != nil {
		kinds, port = kinds+1, h.HTTPGet.Port
		if s := h.HTTPGet.Scheme; s != "" && s != "HTTP" && s != "HTTPS" {
			return fmt.Errorf("scheme %q is neither HTTP nor HTTPS", s)
		}
	}
	if h.TCPSocket != nil {
		kinds, port = kinds+1, h.TCPSocket.Port
	}
	if h.GRPC != nil {
		kinds, port = kinds+1, h.GRPC.Port
	}
	if kinds != 1 {
		return fmt.Errorf("wants exactly one of httpGet, tcpSocket and grpc, has %d", kinds)
	}
	if port == 0 {
		return fmt.Errorf("port must be 1 to 65535")
	}
	return nil
}
