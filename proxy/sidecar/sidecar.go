// Package sidecar is the whole proxy: it encrypts and verifies what leaves the pod and what arrives at it, with the
// identity that it finds in a directory. It needs no API access, no capability and no peer but the pods that it talks
// to.
//
// Main is the program meshless-proxy. New makes a sidecar for another program, such as a test or a debugger: with
// Explicit it needs no redirect rules and no root, and a process may hold several.
package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/admin"
	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/connection"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/registry"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/sandbox"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

const (
	verifyInterval = time.Minute // how often live connections are verified, in addition to each new generation
	peersInterval  = 15 * time.Second
	drainPoll      = 100 * time.Millisecond
	// of the connections to a port of metrics and health per source address: other pods must not keep the kubelet out
	maxAdminConnsOfOne = 64
	shutdownBudget     = 2 * time.Second // for the last answers of the admin servers
	// from the first connections on; what the start needed of the program is then released
	startsFor = 2 * time.Second
)

// Sidecar is a proxy with every port bound. Make it with New.
type Sidecar struct {
	options   Options
	log       *slog.Logger
	telemetry *telemetry.Telemetry
	identity  *identity.Watcher
	registry  *registry.Registry
	engine    *relay.Engine
	limits    *connection.Limits
	inbound   *connection.Server
	outbound  *connection.Server
	prober    *admin.Prober
	clients   *listen.Clients
	bound     listeners
	servers   []boundServer
	program   sandbox.Program // to be released
	rules     *rules          // nil where no rules of init redirect
	direct    *direct         // set where no rules redirect, and the pod's names lead here
	resolver  *destination.Resolver

	first     chan struct{} // closed at the first good generation
	serving   atomic.Bool   // inbound and outbound accept
	wasReady  atomic.Bool   // as /readyz answered last
	draining  chan struct{}
	drainOnce sync.Once
	began     time.Time     // when draining was closed; read it only after that
	ending    chan struct{} // closed when Run is to return once the sidecar has drained
	endOnce   sync.Once
}

type boundServer struct {
	listener net.Listener
	server   *http.Server
}

// New binds every port of a sidecar. Nothing is served and no file is read before Run, which must be called after it.
// The error is of a port that cannot be bound; no port is then. In a pod it is an error, too, if init has made no
// client addresses.
func New(o Options) (*Sidecar, error) {
	inPod := o.Redirect == nil && o.Direct == nil
	o = o.withDefaults()
	if inPod {
		var err error
		if o.Redirect.Clients, err = listen.FindRanges(context.Background(), o.ClientCIDRs); err != nil {
			return nil, err
		}
		o.Log.Info("the app sees its clients in networks of this pod's own", "client_cidrs", o.Redirect.Clients.String())
	}
	limits := makeLimits(&o)
	bound, err := o.Addresses.bind(o.Direct)
	if err != nil {
		return nil, err
	}
	s := &Sidecar{options: o, log: o.Log, telemetry: telemetry.New(o.Log), registry: registry.New(), bound: bound, limits: limits,
		first: make(chan struct{}), draining: make(chan struct{}), ending: make(chan struct{})}
	if o.LostLines != nil {
		s.telemetry.CountLostLines(o.LostLines)
	}
	if o.Direct != nil {
		s.makeDirect()
	}
	s.clients = listen.NewClients(s.options.Redirect.Clients)
	if err := s.make(inPod); err != nil {
		bound.close()
		s.rules.close()
		return nil, err
	}
	return s, nil
}

// make makes what a sidecar is of, once its ports are bound.
func (s *Sidecar) make(inPod bool) (err error) {
	o := s.options
	if inPod {
		if err := s.proveRules(); err != nil {
			return err
		}
	}
	if o.Confine {
		s.program = sandbox.OwnProgram()
		// nothing of a peer or of the directory has been read yet, and no port is bound after it, but for Services
		// where no rules redirect
		if s.direct != nil {
			sandbox.EnterListening(o.Directory, o.Log)
		} else {
			sandbox.Enter(o.Directory, o.Log)
		}
	}
	if s.engine, err = relay.NewEngine(runtime.GOMAXPROCS(0), relay.Limits{Buffered: s.limits.Buffers, Queued: s.limits.Queues}); err != nil {
		return err
	}
	s.identity = &identity.Watcher{Directory: o.Directory, Namespace: o.Namespace, Now: o.Now, Watch: o.Watch, Log: o.Log, OnGood: s.adopt,
		OnBad: func(error) { s.telemetry.ReloadFailed() }}
	s.resolver = destination.New(destination.Options{Servers: o.NameServers, Now: o.Now, Own: o.PodAddresses,
		Count: func(r destination.Result) { s.telemetry.Lookup(string(r)) }})
	if err := s.makeTraffic(); err != nil {
		s.engine.Close()
		return err
	}
	s.prober = admin.NewProber(s.identity.Current, o.Redirect.Clients, o.Log)
	s.prober.OnLoopback = s.direct != nil && o.Direct.AppAddress == podplan.AppLoopback
	s.makeServers()
	return nil
}

// makeLimits finds out what the sidecar may hold, and says it.
func makeLimits(o *Options) *connection.Limits {
	if o.Budget == nil {
		r := sandbox.Measure(o.Log) // before Enter, behind which cgroups cannot be read
		r.StandardRecords, r.Direct = o.Records.InForce() == relay.Standard, o.Direct != nil
		b := budget.For(r)
		o.Budget = &b
	}
	var goLimit int64
	if o.Confine {
		goLimit = sandbox.LimitMemory(*o.Budget)
	}
	o.Log.Info("budget: what memory and file descriptors give", "budget", *o.Budget, "go_memory_limit_bytes", goLimit)
	return connection.NewLimits(*o.Budget)
}

// makeTraffic makes the servers of both directions.
func (s *Sidecar) makeTraffic() (err error) {
	o := s.options
	c := connection.Config{Current: s.identity.Current, Registry: s.registry, Engine: s.engine, Telemetry: s.telemetry, Limits: s.limits,
		Idle: o.IdleTimeout, Records: o.Records}
	o.Log.Info("records are protected", "records", string(o.Records.InForce()))
	inbound := connection.InboundConfig{Config: c, OwnAddress: o.Redirect.OwnAddress, Clients: s.clients}
	c.Listeners, c.OriginalDst, c.Canary = s.bound.outbound, o.Redirect.Outbound, s.canary()
	if s.direct != nil {
		c.Dialed, inbound.App, inbound.Reached = s.direct.dialed, s.direct.app, s.direct.reached
	}
	if s.outbound, err = connection.NewOutbound(c, s.resolver); err != nil {
		return err
	}
	inbound.Listeners, inbound.OriginalDst = s.bound.inbound, o.Redirect.Inbound
	s.inbound, err = connection.NewInbound(inbound)
	return err
}

// makeServers makes the servers of metrics, health and admin.
func (s *Sidecar) makeServers() {
	c := admin.Config{Telemetry: s.telemetry, Identity: s.identity, Prober: s.prober, Ready: s.askReady, Drain: s.drain, Quit: s.Shutdown, Activity: s.activity, Clients: s.clients,
		Records: string(s.options.Records.InForce()), Level: s.options.Level, Pprof: s.options.Pprof}
	if s.direct != nil {
		c.Loopback = s.direct.table.Shown
		s.bound.metrics, s.bound.health = s.direct.refuseLed(s.bound.metrics), s.direct.refuseLed(s.bound.health)
	}
	all := cmp.Or(s.limits.Admin, budget.For(budget.Resources{}).Admin)
	serve := func(listeners []net.Listener, ofOne int, h http.Handler) {
		server := admin.Server(h)
		server.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
		for _, l := range listeners {
			s.servers = append(s.servers, boundServer{netutil.LimitListener(listen.LimitSources(l, ofOne), all), server})
		}
	}
	metrics, health := admin.Metrics(c), admin.Health(c)
	if s.rules != nil {
		metrics, health = s.rules.probes.Metrics(metrics, health), s.rules.probes.Health(health)
		for i, l := range s.bound.metrics {
			s.bound.metrics[i] = s.rules.probes.Listen(l)
		}
	}
	ofOne := min(maxAdminConnsOfOne, all/2)
	serve(s.bound.metrics, ofOne, metrics)
	serve(s.bound.health, ofOne, health)
	serve(s.bound.admin, all, admin.Local(c))
}

// Addresses are where the sidecar listens. Of a port that is bound to several addresses it is the first. Where no rules
// redirect, Inbound is the first direct port, and Outbound is empty.
func (s *Sidecar) Addresses() Addresses {
	first := func(bound []net.Listener) string {
		if len(bound) == 0 {
			return ""
		}
		return bound[0].Addr().String()
	}
	a := Addresses{Outbound: first(s.bound.outbound), Inbound: first(s.bound.inbound), Metrics: first(s.bound.metrics), Health: first(s.bound.health), Admin: first(s.bound.admin)}
	if s.bound.names != nil {
		a.Resolver = s.bound.names.Addr().String()
	}
	return a
}

// adopt puts a new generation into force: new handshakes have it already, live connections are verified by it.
func (s *Sidecar) adopt(next *identity.Snapshot) {
	s.telemetry.Generation(next)
	s.registry.Reconsider(next)
	if next.Number == 1 {
		close(s.first)
	}
}

// askReady is Ready for /readyz. It logs when the answer changes, since the kubelet's event holds the status alone.
func (s *Sidecar) askReady() error {
	err := s.Ready()
	switch was := s.wasReady.Swap(err == nil); {
	case was && err != nil && !closed(s.draining):
		s.log.Error("no longer ready", "error", err.Error())
	case !was && err == nil:
		s.log.Info("ready")
	}
	return err
}

// Ready is nil when connections can be expected to work, as /readyz answers.
func (s *Sidecar) Ready() error {
	snapshot := s.identity.Current()
	switch {
	case closed(s.draining):
		return errors.New("draining")
	case snapshot == nil && s.identity.Failure() != nil:
		return fmt.Errorf("no good generation of files yet: %w", s.identity.Failure())
	case snapshot == nil:
		return errors.New("files are not read yet")
	case !s.serving.Load():
		return errors.New("listeners are not served yet")
	}
	if err := s.rulesErr(); err != nil {
		return err
	}
	return snapshot.Usable()
}

func (s *Sidecar) activity() admin.Activity {
	return admin.Activity{InboundConnections: s.inbound.Active(), OutboundConnections: s.outbound.Active(), Handlers: s.prober.Active(), Draining: closed(s.draining)}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// drain lets no new inbound connection in. What is open stays, and what the app opens is served.
func (s *Sidecar) drain() {
	s.drainOnce.Do(func() {
		s.log.Info("draining: no new inbound connections", "inbound", s.inbound.Active(), "outbound", s.outbound.Active())
		s.began = time.Now()
		close(s.draining)
	})
}

// Shutdown lets no new inbound connection in and makes Run return when the live ones have ended, or
// Options.DrainTimeout after the drain began. It does not wait for that, and may be called often.
func (s *Sidecar) Shutdown() {
	s.drain()
	s.endOnce.Do(func() { close(s.ending) })
}
