package sidecar

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/files"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/relay"
)

// Options are what a Sidecar is told. The zero value is the sidecar of a pod, but for Confine. Neither the app nor the
// files in Directory can set any of them: they come from the command line or the calling program.
type Options struct {
	// Directory holds tls.crt, tls.key.age with identity.txt or else tls.key, ca.crt, mesh.yaml and workload.json, as
	// the kubelet mounts them: files are links through ..data. Default /var/run/meshless
	Directory    string
	Namespace    string        // of the pod, which the identity must name; default: not compared
	DrainTimeout time.Duration // how long connections may finish after Shutdown; default 25 s
	IdleTimeout  time.Duration // after so long without a byte a connection ends; default never
	Pprof        bool          // serve Go's profiles on the admin port; default false

	// Log must not block: each connection writes a line. Default: JSON on standard error, one object per line, from
	// Level on; lines are lost while nobody reads them
	Log       *slog.Logger
	LostLines func() uint64 // how many lines of Log were lost, for a metric; default none, and that of the default Log

	Level *slog.LevelVar // level of Log, which /loglevel of the admin port sets; default: a new one, at info

	Addresses Addresses // where the sidecar listens; default: the ports of package api
	Redirect  *Redirect // how connections reach it; default: by Direct, or else by the rules of meshless-init
	// without redirect rules: the ports at which connections for the app come, and where it listens. The pod's DNS
	// queries are answered at Addresses.Resolver
	Direct      *podplan.Direct
	ClientCIDRs clientaddr.Ranges // as init was told; not used with a Redirect, which has its own; default: init's choice
	// how often the rules of meshless-init are proved; not used with a Redirect; default redirect.DefaultInterval
	RulesInterval time.Duration
	NameServers   []netip.AddrPort // asked in order; nil: those of /etc/resolv.conf; empty: none
	// the pod's addresses, as DNS may name them; default: those of the interfaces, but for loopback
	PodAddresses func() []netip.Addr

	// Budget is what the sidecar may hold at once; default: what memory limit and descriptors of the process give
	Budget *budget.Budget

	// whose record layer protects connections; default relay.Own. In FIPS 140-3 mode it is relay.Standard in any case
	Records relay.Records

	Watch files.WatchOptions // how Directory is watched; defaults as there; its Log is ours
	Now   func() time.Time   // clock of certificates and DNS answers; default time.Now

	// Confine makes the process the sidecar's own, for good and for all that runs in it. The garbage collector keeps to
	// the container's memory limit, and Go gets one processor more than its CPU limit. Landlock and seccomp take what a
	// proxy never needs. Pages of the start are given back. Default false; Main sets it. A process with two sidecars,
	// or with anything else, cannot have it.
	Confine bool

	loopbacks          netip.Prefix // loopback.Network, but in tests, where one machine has several pods
	podAddressesAreSet bool
}

// Addresses are where a Sidecar listens, each as listen.Bind takes it, where port 0 is any that is free. The defaults
// are those of a pod, which meshless reserves there.
type Addresses struct {
	Outbound string // what the app opens; default 127.0.0.1:15001 and [::1]:15001
	Inbound  string // what arrives; default :15006. With Options.Direct its host counts alone, for each direct port
	Metrics  string // default :15020
	Health   string // default :15021
	Admin    string // default 127.0.0.1:15000; it has no authentication, so it is for loopback alone
	Resolver string // with Options.Direct alone: the pod's DNS queries, by UDP and TCP; default 127.0.0.53:53
}

// Redirect is how connections reach the sidecar, and how it reaches the app. All functions are needed.
type Redirect struct {
	Outbound   func(*net.TCPConn) (netip.AddrPort, error) // where the app was going
	Inbound    func(*net.TCPConn) (netip.AddrPort, error) // where the peer was going
	OwnAddress func(netip.Addr) bool                      // whether that is an address of this pod; others are refused
	// networks of the addresses from which the app is dialed; the zero value leaves it to the system
	Clients clientaddr.Ranges
}

// byInit is the Redirect of a pod, but for Clients, which New finds out. The kernel's connection tracking knows where
// connections were going (Linux only).
func byInit() *Redirect {
	return &Redirect{Outbound: listen.KernelOriginalDst, Inbound: listen.KernelOriginalDst, OwnAddress: new(listen.OwnAddresses).Contains}
}

// Explicit is the Redirect of a sidecar without redirect rules, as on a laptop: connections to its outbound port go to
// outbound, and connections to its inbound port go to app. The zero AddrPort is for a direction that is not used;
// connections there are refused.
func Explicit(outbound, app netip.AddrPort) *Redirect {
	fixed := func(dst netip.AddrPort) func(*net.TCPConn) (netip.AddrPort, error) {
		return func(*net.TCPConn) (netip.AddrPort, error) { return dst, nil }
	}
	return &Redirect{Outbound: fixed(outbound), Inbound: fixed(app), OwnAddress: func(a netip.Addr) bool { return a == app.Addr() }}
}

const resolvConf = "/etc/resolv.conf"

// withDefaults fills what is not set.
func (o Options) withDefaults() Options {
	o.Directory = cmp.Or(o.Directory, api.Directory)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, podplan.DefaultDrainTimeout)
	o.Level = cmp.Or(o.Level, new(slog.LevelVar))
	if o.Log == nil {
		lines := newLogWriter(os.Stderr)
		o.Log, o.LostLines = slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: o.Level})), lines.Lost
	}
	o.Watch.Log = o.Log
	if o.Direct == nil {
		o.Redirect = cmp.Or(o.Redirect, byInit())
	}
	if o.podAddressesAreSet = o.PodAddresses != nil; !o.podAddressesAreSet {
		o.PodAddresses = destination.SystemAddresses
	}
	if o.NameServers == nil {
		var err error
		if o.NameServers, err = destination.SystemServers(resolvConf); err != nil {
			o.Log.Warn("name servers are unknown: private addresses are refused, unless a clusterIP of the mesh names them and the port takes mutual TLS", "error", err.Error())
		}
	}
	return o
}

// listeners are the ports of a sidecar; each is bound to one or more addresses.
type listeners struct {
	outbound, inbound, metrics, health, admin []net.Listener
	names                                     net.Listener   // of DNS, without redirect rules
	namesUDP                                  net.PacketConn // at the same address
}

func (l listeners) close() {
	for _, bound := range slices.Concat(l.outbound, l.inbound, l.metrics, l.health, l.admin) {
		bound.Close()
	}
	if l.names != nil {
		l.names.Close()
	}
	if l.namesUDP != nil {
		l.namesUDP.Close()
	}
}

// bind binds all ports or none: a sidecar that lacks one must not look alive.
func (a Addresses) bind(direct *podplan.Direct) (l listeners, err error) {
	bind := func(address, host string, port int) (bound []net.Listener) {
		if err != nil {
			return nil
		}
		if bound, err = listen.Bind(cmp.Or(address, fmt.Sprintf("%s:%d", host, port))); err != nil && address == "" {
			err = fmt.Errorf("port %d, which meshless reserves in every pod: %w", port, err)
		}
		return bound
	}
	l = listeners{
		metrics: bind(a.Metrics, "", api.MetricsPort),
		health:  bind(a.Health, "", api.HealthPort),
		admin:   bind(a.Admin, "127.0.0.1", api.AdminPort),
	}
	if direct == nil {
		l.outbound, l.inbound = bind(a.Outbound, "localhost", api.OutboundPort), bind(a.Inbound, "", api.InboundPort)
	} else if err == nil {
		err = l.bindDirect(a, direct)
	}
	if err != nil {
		l.close()
	}
	return l, err
}
