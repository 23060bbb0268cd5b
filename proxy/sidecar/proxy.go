package sidecar

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/admin"
	"github.com/meshless-dev/meshless/proxy/config"
	"github.com/meshless-dev/meshless/proxy/connection"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/resolve"
	"github.com/meshless-dev/meshless/proxy/sandbox"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

const (
	verifyInterval = time.Minute // how often live connections are verified beside each new generation
	vanishInterval = 15 * time.Second
	drainPoll      = 100 * time.Millisecond
	maxAdminConns  = 1024 // per port of metrics, health and admin
	// of these per source address, where other pods can connect: they must not keep the kubelet out
	maxAdminConnsOfOne = 64
	resolvConf         = "/etc/resolv.conf"
	shutdownBudget     = 2 * time.Second // for the last answers of the admin servers
	// from the first connections on; what the start needed of the program is then released
	startsFor = 2 * time.Second
)

// proxy is the whole sidecar, with every port bound.
type proxy struct {
	args      podplan.ProxyArgs
	log       *slog.Logger
	telemetry *telemetry.Telemetry
	source    *identity.Source
	registry  *registry.Registry
	engine    *relay.Engine
	inbound   *connection.Server
	outbound  *connection.Server
	prober    *admin.Prober
	servers   []boundServer
	traffic   []net.Listener // of inbound and outbound
	program   sandbox.Program

	first     chan struct{} // closed at the first good generation
	firstOnce sync.Once
	serving   atomic.Bool // inbound and outbound accept
	wasReady  atomic.Bool // as /readyz answered last
	draining  chan struct{}
	drainOnce sync.Once
	began     time.Time     // when draining was closed; read it only after that
	ending    chan struct{} // closed when the process is to end once it has drained
	endOnce   sync.Once
}

type boundServer struct {
	listener net.Listener
	server   *http.Server
}

// listeners are the ports of the proxy, all bound or none.
type listeners struct {
	outbound                        []net.Listener
	inbound, metrics, health, local net.Listener
}

// bind binds every port before any is served: a proxy that lacks one must not look alive.
func bind(a podplan.ProxyArgs, log *slog.Logger, level *slog.LevelVar) (*proxy, error) {
	l, err := listenAll()
	if err != nil {
		return nil, err
	}
	servers, err := resolve.SystemServers(resolvConf)
	if err != nil {
		log.Warn("name servers are unknown: private addresses are refused, unless a clusterIP of the mesh names them and the port takes mutual TLS", "error", err.Error())
	}
	sources := listen.Sources{V4: netip.MustParseAddr(api.InboundSource4), V6: netip.MustParseAddr(api.InboundSource6)}
	return newProxy(setup{args: a, log: log, level: level, listeners: l, originalDst: listen.KernelOriginalDst, ownAddress: new(listen.OwnAddresses).Contains,
		sources: sources, nameServers: servers})
}

// setup is what differs between a pod and a test.
type setup struct {
	args        podplan.ProxyArgs
	log         *slog.Logger
	level       *slog.LevelVar // of log
	listeners   listeners
	originalDst func(*net.TCPConn) (netip.AddrPort, error)
	ownAddress  func(netip.Addr) bool
	sources     listen.Sources
	nameServers []netip.AddrPort
	watch       config.WatchOptions
}

// newProxy starts nothing but the loops of the engine, which serve closes.
func newProxy(s setup) (*proxy, error) {
	engine, err := relay.NewEngine(runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	p := &proxy{args: s.args, log: s.log, telemetry: telemetry.New(s.log), registry: registry.New(), engine: engine,
		traffic: append(slices.Clone(s.listeners.outbound), s.listeners.inbound), first: make(chan struct{}), draining: make(chan struct{}), ending: make(chan struct{}), program: sandbox.OwnProgram()}
	s.watch.Log = s.log
	p.source = &identity.Source{Directory: s.args.Directory, Watch: s.watch, Log: s.log, OnGood: p.adopt,
		OnBad: func(error) { p.telemetry.ReloadFailed() }}
	resolver := resolve.New(resolve.Options{Servers: s.nameServers, Count: p.telemetry.Lookup})
	common := connection.Config{Listeners: s.listeners.outbound, OriginalDst: s.originalDst, Current: p.source.Current, Registry: p.registry, Engine: engine,
		Telemetry: p.telemetry}
	p.outbound = connection.NewOutbound(common, resolver)
	common.Listeners = []net.Listener{s.listeners.inbound}
	p.inbound = connection.NewInbound(connection.InboundConfig{Config: common, OwnAddress: s.ownAddress, Sources: s.sources})
	p.prober = admin.NewProber(p.source.Current, s.sources, s.log)
	c := admin.Config{Telemetry: p.telemetry, Source: p.source, Prober: p.prober, Ready: p.askReady, Drain: p.startDrain(false), Quit: p.startDrain(true), State: p.state,
		Level: s.level, Pprof: s.args.Pprof}
	metrics, health := listen.LimitSources(s.listeners.metrics, maxAdminConnsOfOne), listen.LimitSources(s.listeners.health, maxAdminConnsOfOne)
	for l, h := range map[net.Listener]http.Handler{metrics: admin.Metrics(c), health: admin.Health(c), s.listeners.local: admin.Local(c)} {
		server := admin.Server(h)
		server.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
		p.servers = append(p.servers, boundServer{netutil.LimitListener(l, maxAdminConns), server})
	}
	return p, nil
}

func listenAll() (l listeners, err error) {
	var open []net.Listener
	defer func() {
		if err != nil {
			for _, o := range open {
				o.Close()
			}
		}
	}()
	if l.outbound, err = listen.Loopback(api.OutboundPort); err != nil {
		return listeners{}, taken(api.OutboundPort, err)
	}
	open = append(open, l.outbound...)
	for port, into := range map[int]*net.Listener{api.InboundPort: &l.inbound, api.MetricsPort: &l.metrics, api.HealthPort: &l.health} {
		if *into, err = listen.Everywhere(port); err != nil {
			return listeners{}, taken(port, err)
		}
		open = append(open, *into)
	}
	if l.local, err = net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(api.AdminPort))); err != nil {
		return listeners{}, taken(api.AdminPort, err)
	}
	return l, nil
}

func taken(port int, err error) error {
	return fmt.Errorf("port %d, which meshless reserves in every pod: %w", port, err)
}

// adopt puts a new generation into force: new handshakes have it already, live connections are verified by it.
func (p *proxy) adopt(s *identity.Snapshot) {
	p.telemetry.Generation(s)
	p.registry.Reconsider(s)
	p.firstOnce.Do(func() { close(p.first) })
}

// askReady is ready for those who ask again and again; the log says when the answer turns, since the kubelet's event
// holds the status alone.
func (p *proxy) askReady() error {
	err := p.ready()
	switch was := p.wasReady.Swap(err == nil); {
	case was && err != nil && !closed(p.draining):
		p.log.Error("not ready any more", "error", err.Error())
	case !was && err == nil:
		p.log.Info("ready")
	}
	return err
}

// ready is nil when connections can be expected to work.
func (p *proxy) ready() error {
	select {
	case <-p.draining:
		return errors.New("draining")
	default:
	}
	s := p.source.Current()
	switch {
	case s == nil && p.source.Failure() != nil:
		return fmt.Errorf("no good generation of files yet: %w", p.source.Failure())
	case s == nil:
		return errors.New("files are not read yet")
	case !p.serving.Load():
		return errors.New("listeners are not served yet")
	}
	return s.Usable()
}

func (p *proxy) state() admin.State {
	return admin.State{InboundConnections: p.inbound.Active(), OutboundConnections: p.outbound.Active(), Handlers: p.prober.Active(), Draining: closed(p.draining)}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// startDrain returns a function that lets no new inbound connection in; with end, the process ends when the live ones
// have.
func (p *proxy) startDrain(end bool) func() {
	return func() {
		p.drainOnce.Do(func() {
			p.log.Info("draining: no new inbound connections", "inbound", p.inbound.Active(), "outbound", p.outbound.Active())
			p.began = time.Now()
			close(p.draining)
		})
		if end {
			p.endOnce.Do(func() { close(p.ending) })
		}
	}
}
