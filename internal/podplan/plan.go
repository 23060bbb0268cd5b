package podplan

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Plan is all that one pod is told. The function writes it into the pod template (package podspec), init and proxy read
// their parts of it, and whoever explains a pod reads the whole back. What can be said in two ways is said in one here:
// defaults stand as values, sets are sorted.
type Plan struct {
	Package  string    // the name of the package, which is the value of api.PackageLabel and in the names of ConfigMaps
	Workload Workload  // workload.json: the identity, and how the proxy treats inbound ports
	Redirect InitArgs  // the command line of init: what does not pass the proxy
	Serve    ProxyArgs // the command line of the proxy; Directory is api.Directory
	// Native: the proxy is an init container that keeps running. Otherwise it is the first container, with hooks.
	Native bool
	// DrainDelay is how long the preStop hook of a proxy that is a plain container waits before it drains; 0 if Native.
	DrainDelay  time.Duration
	Init, Proxy Container
	FIPS140     bool // the proxy's cryptography runs in FIPS 140-3 mode
	Files       Files
}

// Container is what differs between the injected containers of two pods, beside the command line. Values are in the
// spelling of Kubernetes.
type Container struct {
	Image, PullPolicy string
	Resources         *Resources // nil: none are written
}

// Resources are quantities by the name of the resource.
type Resources struct{ Requests, Limits map[string]string }

// Files say where the proxy's volume takes its files from.
type Files struct {
	LeafSecret string // with api.LeafFile and KeyFile
	KeyFile    string // api.SealedKeyFile or api.PlainKeyFile
	Identity   Source // Secret with the age identity that opens a sealed key; zero with a plain key
	Bundle     Source // ConfigMap with the trust bundle; zero: api.BundleFile is in LeafSecret
	Mesh       string // ConfigMap with api.MeshFile for a hook (api.HookMeshPrefix); empty: that of the package
}

// Source is an object and the key of it that a file is taken from.
type Source struct{ Name, Key string }

// PortMode says what becomes of a connection to one port of a pod.
type PortMode string

// The modes of a port.
const (
	PortStrict         PortMode = "Strict"         // mutual TLS only
	PortTLSPassthrough PortMode = "TLSPassthrough" // mutual TLS, and TLS that the app terminates
	PortPermissive     PortMode = "Permissive"     // mutual TLS, and whatever else
	PortExcluded       PortMode = "Excluded"       // it does not pass the proxy
)

// ID is the identity of the workload. It panics on a plan that neither a config nor Parse has made.
func (p *Plan) ID() spiffeid.ID { return spiffeid.RequireFromString(p.Workload.SPIFFEID) }

// NoRedirect tells whether no rules lead the pod's traffic to its proxy (spec.redirect.mode: None).
func (p *Plan) NoRedirect() bool { return p.Serve.Direct != nil }

// PortMode is what becomes of a connection to a port, in a namespace whose mesh map has the given mode.
func (p *Plan) PortMode(port uint16, namespace meshmap.Mode) PortMode {
	if p.Redirect.ExcludeInboundPorts.Contains(port) {
		return PortExcluded
	}
	return p.Workload.PortMode(port, namespace)
}

// Drain is the command line of the preStop hook of a proxy that is a plain container.
func (p *Plan) Drain() DrainArgs {
	return DrainArgs{Delay: p.DrainDelay, Timeout: p.Serve.DrainTimeout}
}

// SetGracePeriod divides a pod's grace period, in seconds, into delay and drain timeout; nil is that of Kubernetes,
// thirty. The last five seconds are left for the exit itself. A preStop hook is part of the period.
func (p *Plan) SetGracePeriod(seconds *int64) {
	total := DefaultDrainTimeout
	if seconds != nil {
		total = max(time.Second, time.Duration(*seconds)*time.Second-5*time.Second)
	}
	p.DrainDelay = 0
	if !p.Native {
		p.DrainDelay = min(DefaultDrainDelay, total/4)
	}
	p.Serve.DrainTimeout = total - p.DrainDelay
}

// Contradiction is that two annotations, or an annotation and the config, say different things of a port.
type Contradiction struct {
	Annotation string // in which one of the two stands
	message    string
}

func (c *Contradiction) Error() string { return c.message }

// Validate refuses plans that contradict themselves: a port in two modes, or one with a PROXY header that never passes
// the proxy. The error of annotations is a *Contradiction.
func (p *Plan) Validate() error {
	if of, proxy := p.Redirect.ClientCIDRs, p.Serve.ClientCIDRs; of != proxy {
		return fmt.Errorf("init makes client addresses of %q local, and the proxy dials the app from those of %q: the app could not be reached. Give both the same %s", of, proxy, clientCIDRsFlag)
	}
	if err := p.validateDirect(); err != nil {
		return err
	}
	if a, b := p.Redirect.TransparentPorts.String(), p.Workload.TransparentPorts.String(); a != b {
		return fmt.Errorf("init makes ports %q transparent, and the proxy %q: the app could not be reached", a, b)
	}
	w, excluded := p.Workload, p.Redirect.ExcludeInboundPorts
	if len(w.TransparentPorts) > 0 && p.Redirect.Backend == BackendIPTables {
		return &Contradiction{api.TransparentPortsAnnotation, "wants nftables: iptables has no zones of conntrack, which keep the client's connection and the proxy's apart. Take spec.init.backend: Auto"}
	}
	if len(w.TransparentPorts) > 0 && len(p.Redirect.ExcludeInboundInterfaces) > 0 {
		return &Contradiction{api.TransparentPortsAnnotation, "answers of such a port go to the proxy alone, and clients that come through an excluded interface (" +
			api.ExcludeInboundInterfacesAnnotation + ", or spec.inbound.excludeInterfaces of the config) would get none. Take one of the two out"}
	}
	if both := w.ProxyProtocolPorts.Intersect(excluded); len(both) > 0 {
		return &Contradiction{api.ProxyProtocolPortsAnnotation, fmt.Sprintf("port %s never passes the proxy, which would write the header: it is excluded (%s, or spec.inbound.excludePorts "+
			"of the config). Take it out of one of the two", both, api.ExcludeInboundPortsAnnotation)}
	}
	for _, mode := range []struct {
		annotation string
		ports      netset.Ports
		other      string
		others     netset.Ports
	}{
		{api.StrictPortsAnnotation, w.StrictPorts, api.PermissivePortsAnnotation, w.PermissivePorts},
		{api.StrictPortsAnnotation, w.StrictPorts, api.TLSPassthroughPortsAnnotation, w.TLSPassthroughPorts},
		{api.StrictPortsAnnotation, w.StrictPorts, api.ExcludeInboundPortsAnnotation + ", or spec.inbound.excludePorts of the config", excluded},
		{api.TransparentPortsAnnotation, w.TransparentPorts, api.ExcludeInboundPortsAnnotation + ", or spec.inbound.excludePorts of the config", excluded},
		{api.TLSPassthroughPortsAnnotation, w.TLSPassthroughPorts, api.PermissivePortsAnnotation, w.PermissivePorts},
		{api.TLSPassthroughPortsAnnotation, w.TLSPassthroughPorts, api.ExcludeInboundPortsAnnotation + ", or spec.inbound.excludePorts of the config", excluded},
	} {
		if both := mode.ports.Intersect(mode.others); len(both) > 0 {
			return &Contradiction{mode.annotation, fmt.Sprintf("port %s stands in another list as well (%s), and a port has one mode; take it out of one of the two", both, mode.other)}
		}
	}
	return nil
}

// validateDirect refuses, of a pod without redirect rules, what rules alone can do, and ports that stand in the way of
// each other.
func (p *Plan) validateDirect() error {
	if !p.NoRedirect() {
		return nil
	}
	if len(p.Workload.TransparentPorts) > 0 {
		return &Contradiction{api.TransparentPortsAnnotation, "wants the rules of " + api.InitName + ", and this pod has none. Take it out, or give the workload " + api.RedirectAnnotation + ": Rules"}
	}
	if err := p.Redirect.ValidateResolver(); err != nil {
		return err
	}
	direct, excluded := p.Serve.Direct.Ports, p.Redirect.ExcludeInboundPorts
	if both := direct.Intersect(excluded); len(both) > 0 {
		return fmt.Errorf("port %s never passes the proxy, and the proxy takes it at another port: it is excluded and direct at once", both)
	}
	if err := p.Serve.Direct.Validate(); err != nil {
		return err
	}
	for port := range direct.All() {
		if at := api.DirectPort(port); excluded.Contains(at) {
			return &Contradiction{api.ExcludeInboundPortsAnnotation, fmt.Sprintf("port %d is excluded (here, or in spec.inbound.excludePorts of the config), and it is where the proxy takes what is for port %d. "+
				"Let the app listen on another port in place of one of them", at, port)}
		}
	}
	return nil
}

// Exclusions lists what a workload sends or takes without mutual TLS, each way in words, like "outbound ports 25,5432".
// The order is fixed. Namespace is the mode of the mesh map.
func (p *Plan) Exclusions(namespace meshmap.Mode) []string {
	var list []string
	add := func(way, what string) {
		if what != "" {
			list = append(list, way+" "+what)
		}
	}
	if namespace == meshmap.Permissive {
		every := "every port"
		if strict := p.Workload.StrictPorts.String(); strict != "" {
			every += " but " + strict
		}
		add(every, "permissive")
	} else {
		add("permissive ports", p.Workload.PermissivePorts.String())
		add("TLS passthrough ports", p.Workload.TLSPassthroughPorts.String())
	}
	add("inbound ports", p.Redirect.ExcludeInboundPorts.String())
	add("inbound interfaces", p.Redirect.ExcludeInboundInterfaces.String())
	add("outbound ports", p.Redirect.ExcludeOutboundPorts.String())
	add("outbound networks", p.Redirect.ExcludeOutboundCIDRs.String())
	add("outbound interfaces", p.Redirect.ExcludeOutboundInterfaces.String())
	add("outbound users", p.Redirect.ExcludeOutboundUIDs.String())
	if p.NoRedirect() {
		add("outbound", "addresses that are not of DNS ("+api.RedirectAnnotation+": None)")
	}
	return list
}
