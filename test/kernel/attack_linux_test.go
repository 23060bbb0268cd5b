package kernel

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/test/lab"
)

// TestAttacks attacks a running shop from other pods, from the wire and from within, with the kernel's own
// redirections. After each step the proxies serve, with no more connections and descriptors than before.
func TestAttacks(t *testing.T) {
	r := startShop(t, time.Now())
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"direct hits from another pod", r.testDirectHits},
		{"open ports answer nothing else", r.testOpenPorts},
		{"loopback-only ports stay private", r.testLoopbackOnly},
		{"forged destination", r.testForgedDestination},
		{"spoofed packets", r.testSpoofed},
		{"hits from within the pod", r.testFromWithin},
		{"own Service address", r.testOwnService},
	} {
		before := map[*lab.Pod]int{}
		for _, p := range []*lab.Pod{r.db, r.api, r.web} {
			before[p] = r.idle(t, p)
		}
		t.Run(step.name, step.test)
		for p, fds := range before {
			for deadline := time.Now().Add(15 * time.Second); r.idle(t, p) > fds; time.Sleep(100 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: %s had %d descriptors, and has %d", step.name, p.Name, fds, descriptors(t, p))
				}
			}
		}
		for _, family := range []int{4, 6} {
			if got := r.get(t, family); !strings.Contains(got, "Orders") {
				t.Fatalf("the shop is unwell after %q: %q", step.name, got)
			}
		}
	}
}

// descriptors is how many the pod's proxy has open.
func descriptors(t *testing.T, p *lab.Pod) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Container(api.ProxyName).PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// idle waits until the pod's proxy serves no connection, and returns its descriptors then.
func (r *running) idle(t *testing.T, p *lab.Pod) int {
	t.Helper()
	var state struct{ InboundConnections, OutboundConnections, Handlers int }
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := p.HTTP().Get(fmt.Sprintf("http://127.0.0.1:%d/configz", api.AdminPort))
		if err == nil {
			err = json.NewDecoder(resp.Body).Decode(&state)
			resp.Body.Close()
		}
		if err != nil {
			t.Fatalf("%s: /configz: %v", p.Name, err)
		}
		if state.InboundConnections+state.OutboundConnections+state.Handlers == 0 {
			return descriptors(t, p)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s still has connections: %+v", p.Name, state)
		}
	}
}

// refusals is how many connections the pod's proxy has refused for the reason.
func (r *running) refusals(t *testing.T, p *lab.Pod, reason string) int {
	t.Helper()
	resp, err := r.out.HTTP().Get(fmt.Sprintf("http://%s:%d/metrics", p.IP4, api.MetricsPort))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "meshless_connections_refused_total{") && strings.Contains(line, `"`+reason+`"`) {
			var value int
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err != nil {
				t.Fatal(err)
			}
			n += value
		}
	}
	return n
}

// testDirectHits knocks at the proxy's own ports from a pod outside the mesh and from one within, plainly and with a
// good certificate.
func (r *running) testDirectHits(t *testing.T) {
	member := client(r.leaf(t, "deployment/acme-web"))
	before := r.refusals(t, r.api, "reserved_port") + r.refusals(t, r.api, "original_destination")
	hits := 0
	for _, family := range []int{4, 6} {
		for _, port := range []uint16{api.AdminPort, api.OutboundPort, api.InboundPort} {
			at := netip.AddrPortFrom(r.api.IP(family), port)
			for who, config := range map[string]*tls.Config{"stranger": nil, "member": member} {
				answer, err := speak(t, r.out, at, config, "GET /configz HTTP/1.0\r\n\r\n")
				lab.WantRefused(t, who+" at "+at.String(), answer, err)
				hits++
			}
			// by its proxy, and so with its certificate
			answer, err := speak(t, r.web, at, nil, "GET /configz HTTP/1.0\r\n\r\n")
			lab.WantRefused(t, "web's app at "+at.String(), answer, err)
			hits++
		}
	}
	if got := r.refusals(t, r.api, "reserved_port") + r.refusals(t, r.api, "original_destination") - before; got != hits {
		t.Errorf("%d direct hits were refused as such, want %d", got, hits)
	}
}

// testOpenPorts asks the two ports that are open to every pod for everything that the proxy has.
func (r *running) testOpenPorts(t *testing.T) {
	want := map[string]int{
		"15020 GET /metrics": 200, "15021 GET /readyz": 200, "15021 GET /livez": 200,
	}
	for _, family := range []int{4, 6} {
		for _, port := range []int{api.MetricsPort, api.HealthPort} {
			for _, path := range []string{"/", "/metrics", "/readyz", "/livez", "/configz", "/drain", "/quit", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars",
				"/handlers/", "/handlers/api/nothing", "/handlers/../configz", "/..%2fconfigz", "//configz"} {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					req, err := http.NewRequest(method, fmt.Sprintf("http://%s%s", net.JoinHostPort(r.api.IP(family).String(), fmt.Sprint(port)), path), nil)
					if err != nil {
						t.Fatal(err)
					}
					c := r.out.HTTP()
					c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
					resp, err := c.Do(req)
					if err != nil {
						t.Errorf("%s %s at %d: %v", method, path, port, err)
						continue
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					code := want[fmt.Sprint(port, " ", method, " ", path)]
					if code == 0 && resp.StatusCode < 300 || code != 0 && resp.StatusCode != code {
						t.Errorf("%s %s at %d: %s", method, path, port, resp.Status)
					}
					if strings.Contains(string(body), "spiffe://") && code == 0 {
						t.Errorf("%s %s at %d tells %.80q", method, path, port, body)
					}
				}
			}
		}
	}
	if err := r.api.Probe(t.Context(), api.ProxyName, "startupProbe"); err != nil {
		t.Errorf("the proxy drains: %v", err)
	}
}

// listenIn opens a port inside a pod, as a process of it would, and counts who gets in.
func listenIn(t *testing.T, p *lab.Pod, network, address string) (port uint16, reached *atomic.Int64) {
	t.Helper()
	var l net.Listener
	if err := p.NS.Do(func() (err error) { l, err = net.Listen(network, address); return err }); err != nil {
		t.Fatal(err)
	}
	reached = new(atomic.Int64)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			_, _ = io.WriteString(c, "private")
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
	return netip.MustParseAddrPort(l.Addr().String()).Port(), reached
}

// testLoopbackOnly: what a pod binds to loopback is not for others, not even for members, and not on a permissive port.
func (r *running) testLoopbackOnly(t *testing.T) {
	member := client(r.leaf(t, "deployment/acme-web"))
	for _, p := range []*lab.Pod{r.api, r.web} { // strict, permissive
		for family, loopback := range map[int]string{4: "127.0.0.1:0", 6: "[::1]:0"} {
			network := fmt.Sprint("tcp", family)
			private, reached := listenIn(t, p, network, loopback)
			open, control := listenIn(t, p, network, netip.AddrPortFrom(p.IP(family), 0).String())
			for open == private { // the kernel may give both addresses one port
				open, control = listenIn(t, p, network, netip.AddrPortFrom(p.IP(family), 0).String())
			}
			at := netip.AddrPortFrom(p.IP(family), private)
			for who, config := range map[string]*tls.Config{"stranger": nil, "member": member} {
				// a silent one would be left waiting for its handshake
				answer, err := speak(t, r.out, at, config, request)
				lab.WantRefused(t, who+" at "+at.String(), answer, err)
			}
			answer, err := speak(t, r.db, at, nil, request)
			lab.WantRefused(t, "db's app at "+at.String(), answer, err)
			if reached.Load() != 0 {
				t.Errorf("%s of %s was reached", loopback, p.Name)
			}
			if answer, err := speak(t, r.db, netip.AddrPortFrom(p.IP(family), open), nil, ""); answer != "private" || control.Load() == 0 {
				t.Errorf("the control, a port of %s that is bound to its address, answers %q, %v", p.Name, answer, err)
			}
		}
	}
}

// inNode runs f with netlink in the node's namespace.
func (r *running) inNode(t *testing.T, f func() error) {
	t.Helper()
	if err := r.Node.Do(f); err != nil {
		t.Fatal(err)
	}
}

// vethOf is the index of the node's end of a pod's link.
func (r *running) vethOf(t *testing.T, p *lab.Pod) (index int) {
	t.Helper()
	r.inNode(t, func() error {
		routes, err := netlink.RouteGet(p.IP4.AsSlice())
		if err == nil && len(routes) > 0 {
			index = routes[0].LinkIndex
		}
		return err
	})
	return index
}

// testForgedDestination routes an address that is not the pod's to it, as a node that is wrong or hostile would: the
// redirection makes it local, and the proxy must not dial on, for anyone.
func (r *running) testForgedDestination(t *testing.T) {
	link := r.vethOf(t, r.web)
	member := client(r.leaf(t, "deployment/acme-api"))
	for family, forged := range map[int]netip.Addr{4: netip.MustParseAddr("10.99.99.99"), 6: netip.MustParseAddr("fd99::99")} {
		route := &netlink.Route{LinkIndex: link, Gw: r.web.IP(family).AsSlice(), Flags: int(netlink.FLAG_ONLINK),
			Dst: &net.IPNet{IP: forged.AsSlice(), Mask: net.CIDRMask(forged.BitLen(), forged.BitLen())}}
		r.inNode(t, func() error { return netlink.RouteAdd(route) })
		t.Cleanup(func() { r.inNode(t, func() error { return netlink.RouteDel(route) }) })
		before := r.refusals(t, r.web, "foreign_address")
		for who, config := range map[string]*tls.Config{"stranger": nil, "member": member} {
			answer, err := speak(t, r.out, netip.AddrPortFrom(forged, 8080), config, request)
			lab.WantRefused(t, who+" at "+forged.String(), answer, err)
		}
		if got := r.refusals(t, r.web, "foreign_address") - before; got != 2 {
			t.Errorf("%d connections to %s were refused as foreign, want 2", got, forged)
		}
	}
}

// testSpoofed puts packets on the pod's link that no honest peer sends: from the address of the inbound proxy, which
// the rules let pass, and from and to loopback addresses. The kernel drops all but those to an IPv4 loopback address:
// the redirection comes before the routing that would drop them, so it is the proxy that refuses them.
func (r *running) testSpoofed(t *testing.T) {
	private, reached := listenIn(t, r.api, "tcp4", "127.0.0.1:0")
	private6, reached6 := listenIn(t, r.api, "tcp6", "[::1]:0")
	at := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	nobody4, nobody6 := at("10.42.0.77"), at("fd42::77") // no pod, so that no kernel resets what it has not opened
	for _, nobody := range []netip.Addr{nobody4, nobody6} {
		route := &netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: &net.IPNet{IP: nobody.AsSlice(), Mask: net.CIDRMask(nobody.BitLen(), nobody.BitLen())}}
		r.inNode(t, func() error { return netlink.RouteAdd(route) })
		t.Cleanup(func() { r.inNode(t, func() error { return netlink.RouteDel(route) }) })
	}
	before, foreign := r.refusals(t, r.api, "foreign_address"), 0
	for i, c := range []struct {
		name     string
		from, to netip.Addr
		port     uint16
		want     knocked
	}{
		{"control 4", nobody4, r.api.IP4, 8080, answered},
		{"control 6", nobody6, r.api.IP6, 8080, answered},
		{"from a client's address", at("198.18.0.77"), r.api.IP4, 8080, ignored},
		{"from a client's address", at("fd6d:6573:686c::77"), r.api.IP6, 8080, ignored},
		{"from the inbound proxy", clientaddr.Default.Probe(r.api.IP4), r.api.IP4, 8080, ignored},
		{"from the inbound proxy", clientaddr.Default.Probe(r.api.IP6), r.api.IP6, 8080, ignored},
		{"from loopback", at("127.0.0.1"), r.api.IP4, api.AdminPort, ignored},
		{"from loopback", at("::1"), r.api.IP6, api.InboundPort, ignored},
		{"to the admin port", nobody4, at("127.0.0.1"), api.AdminPort, refusedForeign},
		{"to the outbound port", nobody4, at("127.0.0.1"), api.OutboundPort, refusedForeign},
		{"to a loopback-only port", nobody4, at("127.0.0.1"), private, refusedForeign},
		{"to a client's address", nobody4, at("198.18.0.77"), 8080, refusedForeign},
		{"to a client's address", nobody6, at("fd6d:6573:686c::77"), 8080, refusedForeign},
		{"to the inbound proxy's address", nobody4, clientaddr.Default.Probe(r.api.IP4), 8080, refusedForeign},
		{"to the outbound port", nobody6, at("::1"), api.OutboundPort, ignored},
		{"to a loopback-only port", nobody6, at("::1"), private6, ignored},
		{"from the pod itself", r.api.IP4, r.api.IP4, 8080, ignored},
		{"from the pod itself", r.api.IP6, r.api.IP6, 8080, ignored},
	} {
		if c.want == refusedForeign {
			foreign++
		}
		if got := r.knock(t, r.api, c.from, c.to, c.port, uint16(40000+i)); got != (c.want != ignored) {
			t.Errorf("%s: a SYN from %s to %s:%d is answered: %t", c.name, c.from, c.to, c.port, got)
		}
	}
	if r.idle(t, r.api); r.refusals(t, r.api, "foreign_address")-before != foreign {
		t.Errorf("%d connections were refused as foreign, want %d", r.refusals(t, r.api, "foreign_address")-before, foreign)
	}
	if reached.Load()+reached6.Load() != 0 {
		t.Error("a loopback-only port was reached")
	}
}

// knocked is what becomes of a forged connection.
type knocked int

const (
	ignored        knocked = iota // by the kernel
	answered                      // as a connection like any other
	refusedForeign                // by the proxy, since its destination is not the pod's
)

// knock opens a connection packet by packet, from the node's end of the pod's link, and tells whether the pod answered.
func (r *running) knock(t *testing.T, p *lab.Pod, from, to netip.Addr, port, fromPort uint16) (answered bool) {
	t.Helper()
	const sequence = 0x5eed0000
	link, mac := r.vethOf(t, p), macOf(t, p)
	r.inNode(t, func() error {
		every := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(every))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: link}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
		send := func(flags byte, sequence, acknowledged uint32) error {
			packet := segment(netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, port), flags, sequence, acknowledged)
			kind := map[bool]uint16{true: unix.ETH_P_IP, false: unix.ETH_P_IPV6}[from.Is4()]
			return unix.Sendto(fd, slices.Concat(mac, net.HardwareAddr{2, 0, 0, 0, 0, 1}, binary.BigEndian.AppendUint16(nil, kind), packet), 0,
				&unix.SockaddrLinklayer{Ifindex: link, Halen: 6, Addr: [8]byte(append(slices.Clone(mac), 0, 0))})
		}
		if err := errors.Join(err, send(synFlag, sequence, 0)); err != nil {
			return err
		}
		want := slices.Concat(binary.BigEndian.AppendUint16(nil, port), binary.BigEndian.AppendUint16(nil, fromPort))
		frame := make([]byte, 1<<16)
		for deadline := time.Now().Add(400 * time.Millisecond); time.Now().Before(deadline); {
			n, _, err := unix.Recvfrom(fd, frame, 0)
			if err != nil {
				continue // nothing within 50 ms
			}
			tcp := 14 + 20 // behind Ethernet and IPv4
			if from.Is6() {
				tcp = 14 + 40
			}
			if n < tcp+20 || !slices.Equal(frame[tcp:tcp+4], want) || binary.BigEndian.Uint32(frame[tcp+8:]) != sequence+1 || frame[tcp+13]&synFlag == 0 {
				continue
			}
			answered = true
			return send(ackFlag, sequence+1, binary.BigEndian.Uint32(frame[tcp+4:])+1)
		}
		return nil
	})
	return answered
}

// macOf is the address of the pod's end of its link.
func macOf(t *testing.T, p *lab.Pod) (mac net.HardwareAddr) {
	t.Helper()
	if err := p.NS.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = eth0.Attrs().HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return mac
}

const synFlag, ackFlag = 0x02, 0x10

// segment is a TCP segment without data (RFC 9293, section 3.1), in IPv4 or IPv6.
func segment(from, to netip.AddrPort, flags byte, sequence, acknowledged uint32) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], sequence)
	binary.BigEndian.PutUint32(tcp[8:], acknowledged)
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 64000)
	addresses := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice())
	binary.BigEndian.PutUint16(tcp[16:], checksum(slices.Concat(addresses, []byte{0, 0, 0, 20, 0, 0, 0, unix.IPPROTO_TCP}, tcp)))
	if from.Addr().Is6() {
		return slices.Concat([]byte{6 << 4, 0, 0, 0, 0, 20, unix.IPPROTO_TCP, 64}, addresses, tcp)
	}
	header := slices.Concat([]byte{4<<4 | 5, 0, 0, 40, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}, addresses)
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	return append(header, tcp...)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// testFromWithin hits the proxy from its own pod: by the pod's address, by loopback, and by ports of other pods that
// are their proxies' own.
func (r *running) testFromWithin(t *testing.T) {
	for _, family := range []int{4, 6} {
		own, loopback := r.api.IP(family), netip.MustParseAddr(map[int]string{4: "127.0.0.1", 6: "::1"}[family])
		for _, at := range []netip.AddrPort{
			netip.AddrPortFrom(own, api.OutboundPort), netip.AddrPortFrom(own, api.InboundPort), netip.AddrPortFrom(own, api.AdminPort),
			netip.AddrPortFrom(loopback, api.OutboundPort), netip.AddrPortFrom(loopback, api.InboundPort),
			netip.AddrPortFrom(r.web.IP(family), api.OutboundPort), netip.AddrPortFrom(r.web.IP(family), api.InboundPort),
			netip.AddrPortFrom(r.out.IP(family), api.OutboundPort), netip.AddrPortFrom(r.out.IP(family), api.InboundPort),
		} {
			for range 20 { // a loop would use up descriptors at once
				answer, err := speak(t, r.api, at, nil, request)
				lab.WantRefused(t, "api's app at "+at.String(), answer, err)
			}
		}
		if answer, err := speak(t, r.api, netip.AddrPortFrom(own, 8080), nil, request); !strings.Contains(answer, "200 OK") {
			t.Errorf("the control, api's app at its own address, answers %q, %v", answer, err)
		}
	}
}

// testOwnService dials api's own Service from api. Whether the node leads a pod back to itself is the node's matter;
// that it ends, and does not loop, is ours.
func (r *running) testOwnService(t *testing.T) {
	for _, family := range []int{4, 6} {
		at := netip.AddrPortFrom(r.ServiceIP("acme-shop", "acme-api", family), 8080)
		var dialed sync.WaitGroup
		for range 10 {
			dialed.Go(func() {
				answer, err := speak(t, r.api, at, nil, request)
				if answer != "" && !strings.Contains(answer, "200 OK") || answer == "" && err == nil {
					t.Errorf("api's own Service answers %q, %v", answer, err)
				}
				if errors.Is(err, syscall.EMFILE) {
					t.Error(err)
				}
			})
		}
		dialed.Wait()
		if n := descriptors(t, r.api); n > 200 {
			t.Errorf("10 connections to its own Service have the proxy open %d descriptors", n)
		}
	}
}
