package apply

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Client addresses, as the app sees them.
const client4, client6 = "198.18.1.7", "fd6d:6573:686c::a4d:1"

// family is one IP family's addresses in the laboratory.
type family struct {
	name                                                string
	domain                                              int // of sockets
	pod, peer, foreign, excluded, loopback, source, any string
}

var families = map[string]family{
	"IPv4": {"IPv4", unix.AF_INET, pod4, peer4, foreign4, excluded4, "127.0.0.1", client4, "0.0.0.0"},
	"IPv6": {"IPv6", unix.AF_INET6, pod6, peer6, foreign6, excluded6, "::1", client6, "::"},
}

// Ports of the laboratory's servers.
const (
	appPort      = 8080 // the app, on the pod's address
	privatePort  = 8081 // the app, on loopback only
	excludedIn   = 2222 // the app, excluded inbound
	servicePort  = 80   // the peer
	excludedOut  = 9005 // the peer, excluded outbound
	datagramPort = 53   // the peer, UDP
)

func labArgs(t *testing.T) podplan.InitArgs {
	t.Helper()
	cidrs, err := netset.ParsePrefixes("10.99.0.0/16,fd99::/32")
	must(t, err)
	return podplan.InitArgs{
		ProxyUID: proxyUID, ExcludeInboundPorts: netset.PortsOf(excludedIn),
		ExcludeOutboundPorts: netset.Ports{{First: 9000, Last: 9010}}, ExcludeOutboundCIDRs: cidrs,
	}
}

// populate starts the listeners of a proxy, of an app and of the peer, for one family.
func populate(t *testing.T, l lab, f family) {
	t.Helper()
	for port, name := range map[int]string{api.OutboundPort: "outbound", api.AdminPort: "admin", privatePort: "private"} {
		serve(t, l.pod, hostPort(f.loopback, port), name)
	}
	for port, name := range map[int]string{api.InboundPort: "inbound", api.MetricsPort: "metrics", api.HealthPort: "health", excludedIn: "opened"} {
		serve(t, l.pod, hostPort(f.any, port), name)
	}
	serve(t, l.pod, hostPort(f.pod, appPort), "app")
	serve(t, l.peer, hostPort(f.any, servicePort), "peer")
	serve(t, l.peer, hostPort(f.any, excludedOut), "peer")
}

// step is one connection: who opens it, from where, to where, and who must answer with which original destination.
type step struct {
	name    string
	ns      netns.NsHandle
	uid     int
	source  string // address to bind to; empty: the kernel's choice
	host    string
	port    int
	answers string // name of the server; "refused": a reset
	client  string // as the server sees it; empty: not checked
}

// out is a connection of the pod to a Service, by a process of the user.
func (l lab) out(f family, uid int, answers string) step {
	return step{ns: l.pod, uid: uid, host: f.foreign, port: servicePort, answers: answers}
}

// in is a connection of the peer to the app, which the inbound proxy answers.
func (l lab) in(f family) step {
	return step{ns: l.peer, host: f.pod, port: appPort, answers: "inbound"}
}

func steps(l lab, f family) []step {
	app := func(name, host string, port int, answers string) step {
		return step{name: name, ns: l.pod, uid: appUID, host: host, port: port, answers: answers}
	}
	proxy := func(name, source, host string, port int, answers string) step {
		return step{name: name, ns: l.pod, uid: proxyUID, source: source, host: host, port: port, answers: answers, client: source}
	}
	outside := func(name, host string, port int, answers string) step {
		return step{name: name, ns: l.peer, host: host, port: port, answers: answers, client: f.peer}
	}
	return []step{
		app("app to a Service", f.foreign, servicePort, "outbound"),
		app("app to another pod", f.peer, servicePort, "outbound"),
		app("app to a port where nobody listens", f.foreign, 1, "outbound"),
		app("app to the metrics of another pod", f.peer, api.MetricsPort, "outbound"),
		{name: "root to a Service", ns: l.pod, uid: 0, host: f.foreign, port: servicePort, answers: "outbound"},
		{name: "app from a client's address to itself", ns: l.pod, uid: appUID, source: f.source, host: f.pod, port: appPort, answers: "refused"},
		{name: "app from a client's address to localhost", ns: l.pod, uid: appUID, source: f.source, host: f.loopback, port: privatePort, answers: "refused"},
		app("app to a client's address", f.source, excludedIn, "refused"),
		app("app to an excluded port", f.foreign, excludedOut, "peer"),
		app("app to an excluded network", f.excluded, servicePort, "peer"),
		app("app to localhost", f.loopback, privatePort, "private"),
		app("app to its own pod address", f.pod, appPort, "app"),

		proxy("outbound proxy to a Service", "", f.foreign, servicePort, "peer"),
		proxy("inbound proxy to the app", f.source, f.pod, appPort, "app"),
		proxy("inbound proxy to a port bound to loopback", f.source, f.pod, privatePort, "refused"),
		proxy("outbound proxy led back to the pod", "", f.pod, appPort, "inbound"),
		proxy("outbound proxy led back to a loopback-only port", "", f.pod, privatePort, "inbound"),
		proxy("outbound proxy led back to its own port", "", f.pod, api.OutboundPort, "inbound"),
		proxy("outbound proxy led back to an excluded port", "", f.pod, excludedIn, "opened"),
		proxy("outbound proxy led back to the metrics", "", f.pod, api.MetricsPort, "metrics"),
		proxy("outbound proxy led back to the health port", "", f.pod, api.HealthPort, "health"),
		proxy("proxy to localhost", "", f.loopback, privatePort, "private"),

		outside("peer to the app", f.pod, appPort, "inbound"),
		outside("peer to a loopback-only port", f.pod, privatePort, "inbound"),
		outside("peer to the outbound listener", f.pod, api.OutboundPort, "inbound"),
		outside("peer to the inbound listener itself", f.pod, api.InboundPort, "inbound"),
		outside("peer to the admin port", f.pod, api.AdminPort, "inbound"),
		outside("peer to the metrics", f.pod, api.MetricsPort, "metrics"),
		outside("kubelet to the health port", f.pod, api.HealthPort, "metrics"), // where it is seen that it was redirected
		outside("peer to an excluded port", f.pod, excludedIn, "opened"),
		outside("peer beside an excluded port", f.pod, excludedIn+1, "inbound"),
	}
}

// check opens the step's connection and compares who answered.
func (s step) check(t *testing.T) {
	t.Helper()
	target := hostPort(s.host, s.port)
	conn, line, err := connect(t, s.ns, s.uid, s.source, target)
	if conn != nil {
		conn.Close() // not only with the test, which may take thousands
	}
	if s.answers == "refused" {
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("got %q, %v, want a refusal", line, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s did not answer: %v", s.answers, err)
	}
	want := s.answers + " " + target
	if strings.HasPrefix(line, "peer ") { // the peer has no NAT, hence no original destination to ask for
		line, want = line[:len("peer ")], s.answers+" "
	}
	if !strings.HasPrefix(line, want) || !strings.HasSuffix(line, s.client) {
		t.Errorf("got %q, want %q from %q", line, want, s.client)
	}
}

func TestRouting(t *testing.T) { forEachFamily(t, testRouting) }

func testRouting(t *testing.T, b testBackend, f family) {
	l := b.lab(t, f, labArgs(t))
	for _, s := range steps(l, f) {
		t.Run(s.name, s.check)
	}
}

// A pod without IPv6: every IPv4 path is as it is otherwise.
func TestRoutingWithoutIPv6(t *testing.T) { forEachBackend(t, testRoutingWithoutIPv6) }

func testRoutingWithoutIPv6(t *testing.T, b testBackend) {
	l := newLab(t)
	setSysctl(t, l.pod, "net/ipv6/conf/all/disable_ipv6", "1")
	f := families["IPv4"]
	populate(t, l, f)
	if text := b.apply(t, l.pod, labArgs(t)); strings.Contains(text, "fd6d:") || strings.Contains(text, "fd99::") || !strings.Contains(text, "IPv6 is disabled in this pod") {
		t.Errorf("got\n%s\nwant no rule for IPv6", text)
	}
	for _, s := range steps(l, f) {
		t.Run(s.name, s.check)
	}
}

// A pod of a cluster of IPv6 alone: every IPv6 path is as it is otherwise, and rules for IPv4 are there as well, since
// its loopback and an address that comes later are IPv4's.
func TestRoutingIPv6Only(t *testing.T) { forEachBackend(t, testRoutingIPv6Only) }

func testRoutingIPv6Only(t *testing.T, b testBackend) {
	l := newLab(t)
	must(t, inside(t, l.pod, func() error { return deleteAddress("eth0", pod4+"/24") }))
	f := families["IPv6"]
	populate(t, l, f)
	text := b.apply(t, l.pod, labArgs(t))
	if !strings.Contains(text, "198.18.0.0/15,fd6d:6573:686c::/64") || !strings.Contains(text, "(IPv4 and IPv6)") {
		t.Errorf("got\n%s\nwant rules for both families", text)
	}
	for _, s := range steps(l, f) {
		t.Run(s.name, s.check)
	}
	must(t, inside(t, l.pod, func() error { // IPv4 that comes later, by a second interface for example
		return errors.Join(addAddresses("eth0", pod4+"/24"), addRoutes(peer4+" 0.0.0.0/0"))
	}))
	later := families["IPv4"]
	populate(t, l, later)
	l.out(later, appUID, "outbound").check(t)
	l.in(later).check(t)
}

// IPv6 that appears behind init's back must not be a way around the proxy.
func TestIPv6EnabledLater(t *testing.T) { forEachBackend(t, testIPv6EnabledLater) }

func testIPv6EnabledLater(t *testing.T, b testBackend) {
	l := newLab(t)
	setSysctl(t, l.pod, "net/ipv6/conf/all/disable_ipv6", "1")
	b.apply(t, l.pod, labArgs(t))
	setSysctl(t, l.pod, "net/ipv6/conf/all/disable_ipv6", "0")
	must(t, inside(t, l.pod, func() error {
		if err := addAddresses("eth0", pod6+"/64"); err != nil {
			return err
		}
		return addRoutes(peer6 + " ::/0")
	}))
	f := families["IPv6"]
	populate(t, l, f)
	l.out(f, appUID, "outbound").check(t)
	l.in(f).check(t)
}

// A peer on the same link addresses packets to the pod's loopback addresses, and the pod's sysctls even let them in.
// They land on the inbound proxy, which refuses an original destination that is not the pod's address; never on a
// loopback listener.
func TestLoopbackFromOutside(t *testing.T) { forEachBackend(t, testLoopbackFromOutside) }

func testLoopbackFromOutside(t *testing.T, b testBackend) {
	l := newLab(t)
	for _, ns := range []netns.NsHandle{l.pod, l.peer} {
		setSysctl(t, ns, "net/ipv4/conf/all/route_localnet", "1")
	}
	must(t, inside(t, l.peer, func() error {
		if err := deleteAddress("lo", "127.0.0.1/8"); err != nil { // or the peer would take the addresses for its own
			return err
		}
		return addRoutes(pod4+" 127.0.0.0/8", pod4+" 198.18.0.0/15", pod6+" fd6d:6573:686c::/64")
	}))
	populate(t, l, families["IPv4"])
	populate(t, l, families["IPv6"])
	b.apply(t, l.pod, labArgs(t))
	for _, host := range []string{"127.0.0.1", client4} {
		for _, port := range []int{api.OutboundPort, api.AdminPort, privatePort} {
			t.Run(hostPort(host, port), step{ns: l.peer, source: peer4, host: host, port: port, answers: "inbound"}.check)
		}
	}
	for _, port := range []int{api.AdminPort, privatePort, excludedIn} {
		t.Run(hostPort(client6, port), step{ns: l.peer, source: peer6, host: client6, port: port, answers: "inbound"}.check)
	}
	t.Run("an excluded port of a client's address", step{ns: l.peer, source: peer4, host: client4, port: excludedIn, answers: "inbound"}.check)
}

func deleteAddress(device, address string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrDel(link, addr)
}

// A container runtime that lost the init container runs it again, under traffic.
func TestApplyAgainKeepsConnections(t *testing.T) { forEachBackend(t, testApplyAgainKeepsConnections) }

func testApplyAgainKeepsConnections(t *testing.T, b testBackend) {
	f := families["IPv4"]
	l := b.lab(t, f, labArgs(t))
	in, line, err := connect(t, l.peer, 0, "", hostPort(f.pod, appPort))
	if err != nil || !strings.HasPrefix(line, "inbound ") {
		t.Fatalf("got %q, %v", line, err)
	}
	out, line, err := connect(t, l.pod, appUID, "", hostPort(f.foreign, servicePort))
	if err != nil || !strings.HasPrefix(line, "outbound ") {
		t.Fatalf("got %q, %v", line, err)
	}
	b.apply(t, l.pod, labArgs(t))
	for name, c := range map[string]io.ReadWriter{"inbound": in, "outbound": out} {
		if _, err := io.WriteString(c, "still there\n"); err != nil {
			t.Fatal(err)
		}
		if echo, err := readLine(c); err != nil || echo != "still there" {
			t.Errorf("%s connection: got %q, %v", name, echo, err)
		}
	}
}

// UDP is not ours: DNS, QUIC and the rest leave and arrive as if there were no rules.
func TestUDPIsNotRedirected(t *testing.T) { forEachBackend(t, testUDPIsNotRedirected) }

func testUDPIsNotRedirected(t *testing.T, b testBackend) {
	l := newLab(t)
	b.apply(t, l.pod, labArgs(t))
	for name, f := range families {
		for direction, way := range map[string]struct {
			from, to netns.NsHandle
			host     string
		}{"out": {l.pod, l.peer, f.foreign}, "in": {l.peer, l.pod, f.pod}} {
			t.Run(name+" "+direction, func(t *testing.T) { checkDatagram(t, way.from, way.to, f.any, hostPort(way.host, datagramPort)) })
		}
	}
}

func checkDatagram(t *testing.T, from, to netns.NsHandle, listen, target string) {
	var server net.PacketConn
	var client net.Conn
	must(t, inside(t, to, func() (err error) {
		server, err = net.ListenPacket("udp", hostPort(listen, datagramPort))
		return err
	}))
	defer server.Close()
	must(t, inside(t, from, func() (err error) {
		client, err = net.Dial("udp", target)
		return err
	}))
	defer client.Close()
	if _, err := client.Write([]byte("query")); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(patience))
	buffer := make([]byte, 16)
	if n, _, err := server.ReadFrom(buffer); err != nil || string(buffer[:n]) != "query" {
		t.Errorf("got %q, %v, want the datagram", buffer[:n], err)
	}
}

// What is not TCP at all, here a protocol of no name (253, RFC 3692), is not ours either: NetworkPolicies are for that.
func TestOtherProtocolsAreNotRedirected(t *testing.T) { forEachBackend(t, testOtherProtocols) }

func testOtherProtocols(t *testing.T, b testBackend) {
	const protocol = 253
	l := newLab(t)
	b.apply(t, l.pod, labArgs(t))
	for name, f := range families {
		t.Run(name, func(t *testing.T) {
			raw := func(ns netns.NsHandle) (fd int) {
				must(t, inside(t, ns, func() (err error) {
					fd, err = unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
					return err
				}))
				t.Cleanup(func() { unix.Close(fd) })
				return fd
			}
			server, client := raw(l.peer), raw(l.pod)
			limit := unix.NsecToTimeval(patience.Nanoseconds())
			must(t, unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
			must(t, unix.Sendto(client, []byte("something"), 0, sockaddr(f.foreign, 0, f.domain)))
			buffer := make([]byte, 128)
			if n, _, err := unix.Recvfrom(server, buffer, 0); err != nil || !strings.HasSuffix(string(buffer[:max(n, 0)]), "something") {
				t.Errorf("got %q, %v, want the packet", buffer[:max(n, 0)], err)
			}
		})
	}
}
