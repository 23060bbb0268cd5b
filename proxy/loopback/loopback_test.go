package loopback_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/loopback"
)

// world is a table of a network of its own, whose listeners are served as told.
type world struct {
	*loopback.Table
	mu    sync.Mutex
	now   time.Time
	ended bool
	got   chan *net.TCPConn
}

func newWorld(t *testing.T, network string, limit int) *world {
	t.Helper()
	w := &world{now: time.Unix(1_800_000_000, 0), got: make(chan *net.TCPConn, 16)}
	w.Table = loopback.New(loopback.Options{Serve: w.serve, Limit: limit, Network: netip.MustParsePrefix(network), Now: w.clock})
	t.Cleanup(w.Close)
	return w
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) later(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

func (w *world) serve(l net.Listener) bool {
	if w.ended {
		l.Close()
		return false
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.got <- c.(*net.TCPConn)
		}
	}()
	return true
}

func target(service, addr string) loopback.Target {
	return loopback.Target{Service: service, Addr: netip.MustParseAddr(addr)}
}

// freePort is one that nobody has on any loopback address.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func ports(list ...uint16) (p netset.Ports) {
	for _, port := range list {
		p = p.Union(netset.Ports{{First: port, Last: port}})
	}
	return p
}

func (w *world) mustLead(t *testing.T, p netset.Ports, targets ...loopback.Target) []netip.Addr {
	t.Helper()
	led, err := w.Lead(targets, p)
	if err != nil {
		t.Fatal(err)
	}
	return led
}

func open(addr netip.Addr, port uint16) error {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addr, port).String(), 5*time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

// TestOriginal: an address leads back to Service, address and port, also of IPv6, and differs by Service.
func TestOriginal(t *testing.T) {
	w := newWorld(t, "127.65.0.0/16", 0)
	one, other := freePort(t), freePort(t)
	led := w.mustLead(t, ports(one, other), target("db.data", "10.0.0.1"), target("db.data", "fd00::1"), target("web.prod", "10.0.0.1"))
	if led[0] == led[2] || led[0] == led[1] {
		t.Fatalf("%v: two targets have one address", led)
	}
	again := w.mustLead(t, ports(one), target("db.data", "::ffff:10.0.0.1"))
	if again[0] != led[0] || w.Listeners() != 6 {
		t.Errorf("the same target is at %s, then %s; %d listeners", led[0], again[0], w.Listeners())
	}
	for i, want := range []string{"10.0.0.1", "fd00::1", "10.0.0.1"} {
		c, err := net.Dial("tcp", netip.AddrPortFrom(led[i], other).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got := <-w.got
		defer got.Close()
		dst, err := w.Original(got)
		if err != nil || dst != netip.AddrPortFrom(netip.MustParseAddr(want), other) {
			t.Errorf("%s stands for %s (%v), want %s", led[i], dst, err, want)
		}
		dialed, err := w.Dialed(got)
		if want := []string{"db.data", "db.data", "web.prod"}[i]; err != nil || dialed.Service != want {
			t.Errorf("%s was dialed as %+v (%v), want %s", led[i], dialed, err, want)
		}
	}
	shown := w.Shown()
	if len(shown) != 3 || shown[0].Service != "db.data" || shown[2].Loopback != led[2] || len(shown[0].Ports) != 2 {
		t.Errorf("shown: %+v", shown)
	}
}

// TestEndpoint: once a name has shown that an address is a pod's, it is.
func TestEndpoint(t *testing.T) {
	w := newWorld(t, "127.66.0.0/16", 0)
	port := freePort(t)
	pod := target("db.data", "10.0.0.1")
	pod.Endpoint = true
	led := w.mustLead(t, ports(port), target("db.data", "10.0.0.1"), pod, target("db.data", "10.0.0.1"))
	if led[0] != led[1] || led[1] != led[2] || !w.Shown()[0].Endpoint {
		t.Errorf("%v, %+v", led, w.Shown())
	}
}

// TestAcrossRestarts: a process that comes after another gives the same address to the same target.
func TestAcrossRestarts(t *testing.T) {
	before, after := newWorld(t, "127.67.0.0/16", 0), newWorld(t, "127.67.0.0/16", 0)
	var targets []loopback.Target
	for i := range 50 {
		targets = append(targets, target("db.data", fmt.Sprintf("10.0.0.%d", i+1)))
	}
	first := before.mustLead(t, nil, targets...)
	for i := range targets {
		if led := after.mustLead(t, nil, targets[len(targets)-1-i]); led[0] != first[len(targets)-1-i] {
			t.Errorf("%+v is at %s, and was at %s", targets[len(targets)-1-i], led[0], first[len(targets)-1-i])
		}
	}
}

// TestTaken: where a process of the pod has the port on all addresses, nothing leads there.
func TestTaken(t *testing.T) {
	w := newWorld(t, "127.68.0.0/16", 0)
	app, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	port := uint16(app.Addr().(*net.TCPAddr).Port)
	led, err := w.Lead([]loopback.Target{target("db.data", "10.0.0.1")}, ports(port))
	var taken *loopback.TakenError
	if !errors.As(err, &taken) || taken.Port != port || led != nil {
		t.Errorf("%v (%v), want that port %d is taken", led, err, port)
	}
	app.Close()
	if led := w.mustLead(t, ports(port), target("db.data", "10.0.0.1")); open(led[0], port) != nil {
		t.Error("once the port is free, it is not listened on")
	}
}

// TestLimit: what was asked for a moment ago keeps its listeners, and else who was used last does. What is open stays
// open, and an address that was given up is no other target's.
func TestLimit(t *testing.T) {
	w := newWorld(t, "127.69.0.0/16", 2)
	port := freePort(t)
	a, b, c := target("a.data", "10.0.0.1"), target("b.data", "10.0.0.1"), target("c.data", "10.0.0.1")
	atA := w.mustLead(t, ports(port), a)[0]
	atB := w.mustLead(t, ports(port), b)[0]
	if _, err := w.Lead([]loopback.Target{c}, ports(port)); !errors.Is(err, loopback.ErrFull) {
		t.Fatalf("a third listener of two: %v", err)
	}
	w.later(2 * time.Minute)
	conn, err := net.Dial("tcp", netip.AddrPortFrom(atA, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := <-w.got
	defer got.Close()
	if _, err := w.Original(got); err != nil { // a was used last
		t.Fatal(err)
	}
	atC := w.mustLead(t, ports(port), c)[0]
	if open(atA, port) != nil || open(atC, port) != nil || open(atB, port) == nil || w.Listeners() != 2 {
		t.Error("it is not the one that was not used for longest that was given up")
	}
	w.later(2 * time.Minute)
	if again := w.mustLead(t, ports(port), b)[0]; again != atB || open(atB, port) != nil {
		t.Errorf("b was at %s, and is at %s", atB, again)
	}
	if _, err := io.WriteString(conn, "still"); err != nil {
		t.Errorf("a connection of a listener that was given up: %v", err)
	}
}

// TestRoomForSome: of a Service with more pods than there is room for, some are reached.
func TestRoomForSome(t *testing.T) {
	w := newWorld(t, "127.71.0.0/16", 3)
	one, other := freePort(t), freePort(t)
	targets := []loopback.Target{target("db.data", "10.0.0.1"), target("db.data", "10.0.0.2"), target("db.data", "10.0.0.3")}
	led := w.mustLead(t, ports(one, other), targets...)
	if len(led) != 1 || open(led[0], one) != nil || open(led[0], other) != nil {
		t.Errorf("%v", led)
	}
}

// TestManyTargets: addresses that nobody dials are forgotten in the end, and those that are listened on are not.
func TestManyTargets(t *testing.T) {
	w := newWorld(t, "127.72.0.0/13", 0)
	port := freePort(t)
	kept := w.mustLead(t, ports(port), target("db.data", "10.0.0.1"))[0]
	used := map[netip.Addr]bool{kept: true}
	for i := range 40_000 {
		led := w.mustLead(t, nil, target("x.data", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()))[0]
		if led == kept || led.As4()[3] == 0 || led.As4()[3] == 255 {
			t.Fatalf("target %d is at %s", i, led)
		}
		used[led] = true
	}
	if len(used) < 39_000 {
		t.Errorf("40,001 targets have had %d addresses", len(used))
	}
	if open(kept, port) != nil || w.mustLead(t, ports(port), target("db.data", "10.0.0.1"))[0] != kept {
		t.Error("the one that was listened on is gone")
	}
}

// TestEnding: nothing leads to a proxy that takes no connections any more.
func TestEnding(t *testing.T) {
	w := newWorld(t, "127.70.0.0/16", 0)
	w.ended = true
	if led, err := w.Lead([]loopback.Target{target("db.data", "10.0.0.1")}, ports(freePort(t))); !errors.Is(err, loopback.ErrEnding) {
		t.Errorf("%v, %v", led, err)
	}
	w.ended = false
	w.Close()
	if led, err := w.Lead([]loopback.Target{target("db.data", "10.0.0.1")}, ports(freePort(t))); !errors.Is(err, loopback.ErrEnding) || w.Listeners() != 0 {
		t.Errorf("%v, %v", led, err)
	}
}
