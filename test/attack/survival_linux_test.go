package attack

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// Addresses of the tests. All of 127.0.0.0/8 is the loopback interface on Linux.
const (
	proxyIP = "127.0.0.12"
	appIP   = "127.0.0.14"
	honest  = "127.0.9.1"
)

var full = flag.Bool("survival", false, "try every pattern in every size of container; default: all in the smallest, the worst in the others")

// sizes are those of the containers, and how many connections attack one: more than it can hold of the worst.
var sizes = []struct {
	limit, connections int
}{{64 << 20, 3000}, {128 << 20, 5000}, {256 << 20, 7000}}

// worst are the patterns that took the most memory of an edition before.
var worst = []string{"a record without its last byte", "answers that are not read, and a record without its last byte", "a hello and no certificate"}

// What the honest member does during each attack.
const (
	patience    = 30 * time.Second
	honestTrips = 20
	honestNew   = 5
)

// TestSurvival: in a container of 64, 128 or 256 MiB, no pattern of attack by members of three identities and by
// strangers ends the proxy. A fourth identity is served all the while, on a connection that it had and on new ones.
// What the attack took comes back.
func TestSurvival(t *testing.T) {
	switch {
	case testing.Short():
		t.Skip("takes minutes")
	case raceEnabled:
		t.Skip("the race detector needs the memory that this counts; make attack runs it without")
	}
	if os.Getuid() != 0 {
		program.Missing(t, "root, to make a cgroup")
	}
	for i, size := range sizes {
		t.Run(fmt.Sprintf("%d MiB", size.limit>>20), func(t *testing.T) {
			b := besiege(t, size.limit)
			for _, p := range patterns {
				if i > 0 && !*full && !slices.Contains(worst, p.name) {
					continue
				}
				if b.dead() {
					b = besiege(t, size.limit)
				}
				t.Run(p.name, func(t *testing.T) { b.attack(t, p, size.connections) })
			}
		})
	}
}

// besieged is a proxy in a container, and who deals with it.
type besieged struct {
	*container
	ca      *testca.CA
	limit   int
	members []tls.Certificate // the attackers', then the honest one
	rest    int               // anonymous memory before the first attack
	sunk    *sink
}

// sink holds the connections that the app does not read, until it lets them go: what a peer has closed meanwhile is
// behind bytes that nobody takes.
type sink struct {
	mu   sync.Mutex
	over chan struct{}
}

func (s *sink) hold() {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	<-over
}

func (s *sink) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.over)
	s.over = make(chan struct{})
}

func besiege(t testing.TB, limit int) *besieged {
	t.Helper()
	ca := testca.New(t, proxytest.TrustDomain)
	b := &besieged{ca: ca, limit: limit, sunk: &sink{over: make(chan struct{})}}
	for _, name := range []string{"a", "b", "c", "honest"} {
		b.members = append(b.members, ca.Issue(t, proxytest.ID(name)))
	}
	files := proxytest.Workload{CA: ca, Leaf: ca.Issue(t, proxytest.ID("server")), Mesh: proxytest.Mesh(),
		Workload: podplan.Workload{SPIFFEID: proxytest.ID("server")}}
	b.container = startContainer(t, limit, files.Plain(t), startApp(t, b.sunk))
	if err := b.exchange(); err != nil {
		t.Fatal(err)
	}
	b.rest = b.anonymous(t)
	return b
}

// startApp serves what the first byte of a connection asks for, until the test ends.
func startApp(t testing.TB, sunk *sink) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", appIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				end := context.AfterFunc(t.Context(), func() { c.Close() })
				defer end()
				app(c, sunk)
			})
		}
	})
	t.Cleanup(func() { sunk.letGo(); l.Close(); served.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func app(c net.Conn, sunk *sink) {
	what := make([]byte, 1)
	if _, err := io.ReadFull(c, what); err != nil {
		return
	}
	switch string(what) {
	case echoes:
		_, _ = io.Copy(c, c)
	case floods:
		for chunk := make([]byte, 64<<10); ; {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	case sinks:
		sunk.hold()
	}
}

// client is the honest member's connection.
func (b *besieged) client() (*tls.Conn, error) {
	c, err := dialTCP(honest, b.Inbound, 0, time.Now().Add(patience))
	if err != nil {
		return nil, err
	}
	h, err := handshaken(c, b.members[attackers])
	if err != nil {
		c.Close()
		return nil, err
	}
	if _, err := io.WriteString(h.tls, echoes); err != nil {
		c.Close()
		return nil, err
	}
	return h.tls, nil
}

// trip sends some bytes and expects them back.
func trip(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	const text = "an honest question"
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		return fmt.Errorf("got %q: %w", got, errors.Join(err))
	}
	return nil
}

// exchange is a round trip on a connection of its own.
func (b *besieged) exchange() error {
	c, err := b.client()
	if err != nil {
		return err
	}
	defer c.Close()
	return trip(c)
}

// attack does what its name says, with so many connections, and holds what TestSurvival says.
func (b *besieged) attack(t *testing.T, p pattern, connections int) {
	established, err := b.client()
	if err == nil {
		err = trip(established)
	}
	if err != nil {
		t.Fatalf("before the attack: %v", err)
	}
	defer established.Close()
	var took [4]time.Duration
	last := time.Now()
	lap := func(i int) { took[i], last = time.Since(last).Round(10*time.Millisecond), time.Now() }
	a := b.begin(t, p, connections)
	most := b.serves(t, established)
	lap(0)
	a.hears(t)
	lap(1)
	most = max(most, b.serves(t, established))
	lap(2)
	got := a.end(t)
	b.sunk.letGo()
	b.alive(t)
	switch {
	case got.Opened == 0:
		t.Errorf("no connection attacked, so this proves nothing: %s", got.Error)
	case got.Tried > total:
		t.Errorf("the attack was over before the honest member was served")
	}
	established.Close()
	b.calm(t)
	lap(3)
	t.Logf("%d of %d connections were opened; anonymous memory %d MiB before, at most %d MiB; serving the honest member took %s meanwhile and %s then; opening %s more, coming to rest %s",
		got.Opened, got.Tried, b.rest>>20, most>>20, took[0], took[2], took[1], took[3])
}

// serves holds that the honest member is served, on the connection that it had and on new ones, and tells how much
// memory the proxy took.
func (b *besieged) serves(t *testing.T, established net.Conn) (most int) {
	t.Helper()
	for range honestTrips {
		if err := trip(established); err != nil {
			b.alive(t)
			t.Fatalf("a connection that was there before the attack: %v\n%s", err, b.log.about(honest))
		}
		most = max(most, b.anonymous(t))
	}
	for range honestNew {
		if err := b.exchange(); err != nil {
			b.alive(t)
			t.Errorf("a new connection of an honest member: %v\n%s", err, b.log.about(honest))
		}
		most = max(most, b.anonymous(t))
	}
	return most
}

// calm waits until no connection is left, and until memory has come back.
func (b *besieged) calm(t *testing.T) {
	t.Helper()
	idle := func() bool {
		text, err := b.metrics()
		return err == nil && strings.Contains(text, "\nmeshless_connections_open{direction=\"inbound\",security=\"mutual_tls\"} 0\n")
	}
	// what a collection leaves in pieces, and what metrics take that are asked for so often, is not the attack's
	back := func() bool { return b.anonymous(t) < b.rest+b.limit*3/8 }
	for deadline := time.Now().Add(2 * time.Minute); !idle() || !back(); time.Sleep(100 * time.Millisecond) {
		b.alive(t)
		b.sunk.letGo() // the app may have taken a connection after the last time
		if time.Now().After(deadline) {
			t.Fatalf("two minutes after the attack: no connection is left: %v; anonymous memory %d MiB", idle(), b.anonymous(t)>>20)
		}
	}
}

func (b *besieged) metrics() (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Get("http://" + b.Metrics + "/metrics")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var out bytes.Buffer
	_, err = out.ReadFrom(response.Body)
	return out.String(), err
}

// held reads nothing, and waits until the attack ends or the proxy ends the connection.
func held(ctx context.Context, c *net.TCPConn) {
	for tick := time.NewTicker(200 * time.Millisecond); ctx.Err() == nil && !ended(c); {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// ended tells whether the peer has reset or closed a connection.
func ended(c *net.TCPConn) (over bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		info, failed := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		over = failed != nil || info.State != 1 // TCP_ESTABLISHED of include/net/tcp_states.h
	})
	return err != nil || over
}

// receiveBuffer sets it before the connection is made, so that the window is small from the beginning.
func receiveBuffer(size int) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if size > 0 {
			err = c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size) })
		}
		return err
	}
}

// dialTCP connects from one address, with a receive buffer of so many bytes unless that is 0. Everything on the
// connection ends by the deadline.
func dialTCP(from, to string, receive int, deadline time.Time) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Deadline: deadline, Control: receiveBuffer(receive)}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(deadline)
	return c.(*net.TCPConn), nil
}
