// Package redirect proves, without any privilege, that the rules of meshless-init are in force in this pod: what the
// app opens is led to the proxy, and what is not led there is refused. It makes connections from the canary address of
// a family to the same address (clientaddr.Canary), for which init has two rules:
//
//   - To the proxy's outbound port, where nothing listens at this address. The rules redirect it, and it arrives at the
//     proxy. Without them it is refused.
//   - To a port at which this package listens at this address alone. The egress filter refuses it. Without the filter
//     it arrives.
//
// The kernel answers both at once, however busy the process is. A check that could not be made, such as for lack of
// descriptors, proves nothing: it neither makes a pod ready nor takes its readiness away. The package imports nothing
// else of the proxy.
package redirect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
)

// Defaults of Options. A failure is seen within Interval, and again after Again: within ten seconds the proxy says so.
const (
	DefaultInterval = 4 * time.Second
	DefaultAgain    = time.Second
	DefaultTimeout  = time.Second
)

// failures is how many checks in a row must fail after one has passed. Until one has, each counts.
const failures = 2

// Chain is a chain of init's rules, as docs/init.md names it.
type Chain string

// The chains that can be proved. Package rules of init has the same names.
const (
	Prerouting   Chain = "prerouting" // by requests to the health port; see Health
	Output       Chain = "output"
	EgressFilter Chain = "guard"
)

// Chains are all of them.
var Chains = []Chain{Prerouting, Output, EgressFilter}

// Result is what came of a check.
type Result string

// The results.
const (
	Passed  Result = "passed"
	Failed  Result = "failed"
	Unknown Result = "unknown" // it could not be made
)

// Results are all of them.
var Results = []Result{Passed, Failed, Unknown}

// Options are what a Checker is told. OriginalDst and Report are required.
type Options struct {
	Clients     clientaddr.Ranges                          // those that init has made local; a family not set is not used
	OriginalDst func(*net.TCPConn) (netip.AddrPort, error) // where an accepted connection was going
	Accepts     func() bool                                // whether the outbound port has a place left; nil: it has
	Report      func(Verdict)                              // told of each verdict, one at a time
	Interval    time.Duration                              // between two checks; default DefaultInterval
	Again       time.Duration                              // after one that did not pass; default DefaultAgain
	Timeout     time.Duration                              // of one connection; default DefaultTimeout
}

// Verdict is what a Checker has found out by now.
type Verdict struct {
	Result  Result  // of the last check
	Why     error   // what it met; nil if it passed
	Missing []Chain // those that are not in force
}

// IsMissing tells whether a chain is found missing.
func (v Verdict) IsMissing(chain Chain) bool { return slices.Contains(v.Missing, chain) }

// Checker proves the rules again and again. Make it with New.
type Checker struct {
	options  Options
	families []family

	mu  sync.Mutex
	err error // why the rules are not proved; nil while they are
}

// family is one IP family of the pod.
type family struct {
	canary   netip.Addr
	filter   *net.TCPListener // where the egress filter lets nothing come
	arrivals chan arrival     // at the outbound port; what finds no place is nobody's
}

// arrival is a connection that began at a canary address.
type arrival struct{ from, dst netip.AddrPort }

// maxArrivals is far more than are under way at once.
const maxArrivals = 16

var errNotYet = errors.New("the rules of meshless-init are not proved yet")

// New listens at the canary addresses. Call it before the sandbox, which forbids to listen. The error is of an address
// that is not local to the pod, which init of the same release makes it.
func New(o Options) (*Checker, error) {
	c := &Checker{options: o.withDefaults(), err: errNotYet}
	for _, p := range []netip.Prefix{o.Clients.V4, o.Clients.V6} {
		if !p.IsValid() {
			continue
		}
		canary := clientaddr.Canary(p)
		config := net.ListenConfig{Control: bindLocal}
		config.SetMultipathTCP(false)
		l, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(canary, 0).String())
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("the address %s, by which the rules of meshless-init are proved, cannot be used: %w", canary, err)
		}
		c.families = append(c.families, family{canary, l.(*net.TCPListener), make(chan arrival, maxArrivals)})
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	o.Interval, o.Again, o.Timeout = cmp.Or(o.Interval, DefaultInterval), cmp.Or(o.Again, DefaultAgain), cmp.Or(o.Timeout, DefaultTimeout)
	if o.Accepts == nil {
		o.Accepts = func() bool { return true }
	}
	return o
}

// Close gives the ports back.
func (c *Checker) Close() {
	for _, f := range c.families {
		f.filter.Close()
	}
}

// Err is why the rules are not proved; nil while they are. It is not nil before the first check has passed.
func (c *Checker) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Run checks until ctx ends. The outbound port must be served meanwhile, with Arrived. It needs one goroutine.
func (c *Checker) Run(ctx context.Context) {
	inARow := failures - 1 // at the start, one that fails is enough
	for ctx.Err() == nil {
		missing, why := c.check(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := c.options.Again
		verdict := Verdict{Result: Unknown, Why: why}
		switch {
		case len(missing) > 0:
			verdict.Result = Failed
			if inARow++; inARow >= failures {
				verdict.Missing = missing
				c.settle(notInForce(missing, why))
			}
		case why != nil:
			c.settleUnknown(why)
		default:
			verdict.Result, inARow, wait = Passed, 0, c.options.Interval
			c.settle(nil)
		}
		c.options.Report(verdict)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func notInForce(missing []Chain, why error) error {
	names := make([]string, len(missing))
	for i, chain := range missing {
		names[i] = string(chain)
	}
	return fmt.Errorf("the rules of meshless-init are not in force (chain %s), so the app's connections may pass the proxy by: "+
		"they were never written or were removed, or %s is not of the same release %s; delete the pod: %w", strings.Join(names, ", "), api.InitName, api.Version, why)
}

func (c *Checker) settle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// settleUnknown says why nothing is proved yet. What is proved stays.
func (c *Checker) settleUnknown(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.err, errNotYet) {
		c.err = fmt.Errorf("%w: the check could not be made: %w", errNotYet, why)
	}
}

// Arrived tells whether an accepted connection of the outbound port is a canary, which is nobody's and needs no more
// than to be closed.
func (c *Checker) Arrived(accepted *net.TCPConn) bool {
	from := addrPort(accepted.RemoteAddr())
	i := slices.IndexFunc(c.families, func(f family) bool { return f.canary == from.Addr() })
	if i < 0 {
		return false
	}
	if dst, err := c.options.OriginalDst(accepted); err == nil { // without a known destination it proves nothing
		select {
		case c.families[i].arrivals <- arrival{from, dst}:
		default:
		}
	}
	return true
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
