// Package loopback gives the Services of the mesh addresses within the pod, for pods without redirect rules. What the
// app opens to such an address reaches the proxy, which knows by it where the app wanted to go: to which Service, and
// to which of the addresses that DNS gave for it. So nothing that DNS says makes a connection one to somebody else.
//
// An address is derived from Service and address, and a process gives it to no other while it remembers the first. So
// one that an app has kept across a restart of the proxy leads to the same server, or nowhere.
package loopback

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/listen"
)

// Network is where the addresses are: loopback ones, which nobody outside of the pod can reach.
var Network = netip.MustParsePrefix("127.64.0.0/10")

const (
	// MaxListeners is how many ports are listened on at once, at most.
	MaxListeners = 4096
	maxEntries   = 4 * MaxListeners
	// recent is what is not given up for others: an answer holds for half of it.
	recent = time.Minute
)

// ErrFull says that there is no room for another listener, since all were asked for a moment ago.
var ErrFull = errors.New("all listeners on loopback addresses were asked for within the last minute")

// ErrEnding says that the proxy takes no connections any more.
var ErrEnding = errors.New("the proxy is shutting down")

// TakenError says that a process of the pod has a port on all addresses, so that the proxy cannot have it on one.
type TakenError struct {
	Port uint16
	Err  error
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("port %d is taken in this pod: %v", e.Port, e.Err)
}

// Unwrap is the system's error.
func (e *TakenError) Unwrap() error { return e.Err }

// Options are what a Table needs; only Serve is required.
type Options struct {
	Serve   func(net.Listener) bool                 // accepts from a listener until it is closed; false: no more, and it is closed
	Listens func(service string, at netip.AddrPort) // a listener is new; may be nil
	Limit   int                                     // of listeners; default and maximum MaxListeners
	Network netip.Prefix                            // of IPv4; default Network
	Now     func() time.Time                        // default time.Now
}

// Target is where the app goes: a Service, and one of the addresses that DNS gave for it.
type Target struct {
	Service  string // <service>.<namespace>, in lower case
	Addr     netip.Addr
	Endpoint bool // the name was one of a pod behind the Service
}

// Table knows which loopback address stands for which target. Make it with New.
type Table struct {
	o Options

	mu        sync.Mutex
	byTarget  map[Target]*entry     // without Endpoint
	byAddr    map[netip.Addr]*entry // loopback addresses
	order     *list.List            // of *entry, those used last in front
	listeners int
	closed    bool
}

type entry struct {
	target Target
	addr   netip.Addr
	ports  map[uint16]net.Listener
	used   time.Time
	place  *list.Element
}

// New makes an empty table.
func New(o Options) *Table {
	if o.Limit <= 0 || o.Limit > MaxListeners {
		o.Limit = MaxListeners
	}
	if !o.Network.IsValid() {
		o.Network = Network
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Listens == nil {
		o.Listens = func(string, netip.AddrPort) {}
	}
	return &Table{o: o, byTarget: map[Target]*entry{}, byAddr: map[netip.Addr]*entry{}, order: list.New()}
}

// Lead is the loopback address of each target, in their order, once the proxy listens there on all ports. Where there
// is room for some, these are the first. Another error is about all of them: nothing must lead to an address of which
// a port is another process's.
func (t *Table) Lead(targets []Target, ports netset.Ports) ([]netip.Addr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrEnding
	}
	var led []netip.Addr
	for _, target := range targets {
		e, err := t.entry(target)
		if err == nil {
			err = t.listen(e, ports)
		}
		switch {
		case errors.Is(err, ErrFull) && len(led) > 0:
			return led, nil
		case err != nil:
			return nil, err
		}
		led = append(led, e.addr)
	}
	return led, nil
}

// entry finds or makes that of a target, and marks it as used.
func (t *Table) entry(target Target) (*entry, error) {
	key := Target{Service: target.Service, Addr: target.Addr.Unmap()}
	e := t.byTarget[key]
	if e == nil {
		if !t.forgetOne() {
			return nil, ErrFull
		}
		e = &entry{target: key, addr: t.choose(key), ports: map[uint16]net.Listener{}}
		t.byTarget[key], t.byAddr[e.addr] = e, e
		e.place = t.order.PushFront(e)
	}
	e.target.Endpoint = e.target.Endpoint || target.Endpoint
	t.use(e)
	return e, nil
}

func (t *Table) use(e *entry) {
	e.used = t.o.Now()
	t.order.MoveToFront(e.place)
}

// forgetOne makes room for an entry: of those that nobody listens for, the one that was not used for longest goes.
func (t *Table) forgetOne() bool {
	if len(t.byAddr) < maxEntries {
		return true
	}
	for place := t.order.Back(); place != nil; place = place.Prev() {
		if e := place.Value.(*entry); len(e.ports) == 0 {
			t.order.Remove(place)
			delete(t.byAddr, e.addr)
			delete(t.byTarget, Target{Service: e.target.Service, Addr: e.target.Addr})
			return true
		}
	}
	return false
}

// choose is the address of a new target, or the next that is free. Those that end in 0 and 255 are left out: tools take
// them for networks.
func (t *Table) choose(target Target) netip.Addr {
	digest := sha256.Sum256([]byte(target.Service + " " + target.Addr.String()))
	base := t.o.Network.Masked().Addr().As4()
	host := uint32(1)<<(32-t.o.Network.Bits()) - 1
	for n := binary.BigEndian.Uint32(digest[:]); ; n++ {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])|n&host)
		addr := netip.AddrFrom4(b)
		if b[3] != 0 && b[3] != 255 && t.byAddr[addr] == nil {
			return addr
		}
	}
}

// listen listens for e on those of the ports on which it does not yet. What it began it leaves, for the next answer.
func (t *Table) listen(e *entry, ports netset.Ports) error {
	for port := range ports.All() {
		if e.ports[port] != nil {
			continue
		}
		if !t.giveUp() {
			return ErrFull
		}
		bound, err := listen.Bind(netip.AddrPortFrom(e.addr, port).String())
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return &TakenError{port, err}
		case err != nil:
			return err
		case !t.o.Serve(bound[0]):
			return ErrEnding
		}
		e.ports[port] = bound[0]
		t.listeners++
		t.o.Listens(e.target.Service, netip.AddrPortFrom(e.addr, port))
	}
	return nil
}

// giveUp makes room for a listener: the target that was not used for longest loses its own. What is open stays open.
func (t *Table) giveUp() bool {
	if t.listeners < t.o.Limit {
		return true
	}
	now := t.o.Now()
	for place := t.order.Back(); place != nil; place = place.Prev() {
		e := place.Value.(*entry)
		if now.Sub(e.used) < recent {
			break // and the others were used later
		}
		if len(e.ports) > 0 {
			t.drop(e)
			return true
		}
	}
	return false
}

func (t *Table) drop(e *entry) {
	for port, l := range e.ports {
		l.Close()
		delete(e.ports, port)
		t.listeners--
	}
}

// Original is where the client of c wanted to go: the target's address, and the port that it dialed.
func (t *Table) Original(c *net.TCPConn) (netip.AddrPort, error) {
	target, err := t.Dialed(c)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(target.Addr, listen.AddrPort(c.LocalAddr()).Port()), nil
}

// Dialed is the target of c.
func (t *Table) Dialed(c *net.TCPConn) (Target, error) {
	at := listen.AddrPort(c.LocalAddr()).Addr()
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byAddr[at]
	if e == nil {
		return Target{}, fmt.Errorf("%s stands for no address of the mesh", at)
	}
	t.use(e)
	return e.target, nil
}

// Listeners is how many ports are listened on.
func (t *Table) Listeners() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.listeners
}

// Shown is what /configz shows of one loopback address.
type Shown struct {
	Loopback netip.Addr `json:"loopback"`
	Service  string     `json:"service"` // <service>.<namespace>
	Address  netip.Addr `json:"address"`
	Endpoint bool       `json:"endpoint,omitempty"` // it was asked for by the name of a pod
	Ports    []uint16   `json:"ports"`              // on which the proxy listens
	Used     time.Time  `json:"used"`               // last asked for, or connected to
}

// Shown are the addresses on which the proxy listens, in the order of Services.
func (t *Table) Shown() []Shown {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Shown
	for addr, e := range t.byAddr {
		if len(e.ports) == 0 {
			continue
		}
		s := Shown{Loopback: addr, Service: e.target.Service, Address: e.target.Addr, Endpoint: e.target.Endpoint, Used: e.used}
		for port := range e.ports {
			s.Ports = append(s.Ports, port)
		}
		slices.Sort(s.Ports)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Shown) int {
		if a.Service != b.Service {
			if a.Service < b.Service {
				return -1
			}
			return 1
		}
		return a.Address.Compare(b.Address)
	})
	return all
}

// Close closes all listeners, and lets no more come.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, e := range t.byAddr {
		t.drop(e)
	}
}
