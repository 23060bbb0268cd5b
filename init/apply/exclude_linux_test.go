package apply

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// second is a network that the pod has beside the cluster's, as Multus or a VPN client makes one.
type second struct{ pod, peer string }

var seconds = map[string]second{"IPv4": {"10.66.%d.2", "10.66.%d.1"}, "IPv6": {"fd66:%d::2", "fd66:%d::1"}}

// addInterface joins pod and peer by one more pair of interfaces, with networks of that number.
func addInterface(t *testing.T, l lab, name string, number int) {
	t.Helper()
	must(t, inside(t, l.pod, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(l.peer)})
	}))
	for family, bits := range map[string]int{"IPv4": 24, "IPv6": 64} {
		s := seconds[family]
		must(t, inside(t, l.peer, func() error { return addAddresses(name, fmt.Sprintf(s.peer+"/%d", number, bits)) }))
		must(t, inside(t, l.pod, func() error { return addAddresses(name, fmt.Sprintf(s.pod+"/%d", number, bits)) }))
	}
}

// An excluded interface is one by its whole name, in the direction that the config names; an excluded user is that
// user. Everything else is as it is without. Each bypass stands beside the controls that show how far it reaches.
func TestExclusions(t *testing.T) { forEachFamily(t, testExclusions) }

func testExclusions(t *testing.T, b testBackend, f family) {
	const uid, other = 2001, 2002
	l := newLab(t)
	populate(t, l, f)
	for i, device := range []string{"net1", "net10", "tun0"} {
		addInterface(t, l, device, i+1)
	}
	at := func(format string, number int) string { return fmt.Sprintf(format, number) }
	s := seconds[f.name]
	for i := range 3 {
		serve(t, l.pod, hostPort(at(s.pod, i+1), appPort), "app")
	}
	b.apply(t, l.pod, podplan.InitArgs{
		ProxyUID: proxyUID, ExcludeInboundInterfaces: netset.Interfaces{"net1"}, ExcludeOutboundInterfaces: netset.Interfaces{"tun0"}, ExcludeOutboundUIDs: netset.UIDs{uid},
	})
	for _, c := range []step{
		{name: "in by the excluded interface", ns: l.peer, host: at(s.pod, 1), port: appPort, answers: "app"},
		{name: "control: in by an interface whose name begins so", ns: l.peer, host: at(s.pod, 2), port: appPort, answers: "inbound"},
		{name: "control: in by the interface that is excluded outbound", ns: l.peer, host: at(s.pod, 3), port: appPort, answers: "inbound"},
		{name: "control: in by eth0", ns: l.peer, host: f.pod, port: appPort, answers: "inbound"},
		{name: "out by the interface that is excluded inbound", ns: l.pod, uid: appUID, host: at(s.peer, 1), port: servicePort, answers: "outbound"},
		{name: "out by the excluded interface", ns: l.pod, uid: appUID, host: at(s.peer, 3), port: servicePort, answers: "peer"},
		{name: "root out by the excluded interface", ns: l.pod, uid: 0, host: at(s.peer, 3), port: servicePort, answers: "peer"},
		{name: "control: out by eth0", ns: l.pod, uid: appUID, host: f.foreign, port: servicePort, answers: "outbound"},
		{name: "out as the excluded user", ns: l.pod, uid: uid, host: f.foreign, port: servicePort, answers: "peer"},
		{name: "control: out as another user", ns: l.pod, uid: other, host: f.foreign, port: servicePort, answers: "outbound"},
		{name: "control: out as root", ns: l.pod, uid: 0, host: f.foreign, port: servicePort, answers: "outbound"},
		{name: "the proxy, led back to the pod's own address there", ns: l.pod, uid: proxyUID, host: at(s.pod, 1), port: appPort, answers: "inbound"},
	} {
		t.Run(c.name, c.check)
	}
	// The connection of such a socket is carried by others of the kernel's, which must count as the user's:
	// also for the proxy's own user, should its dialer do so.
	multipath := way{proto: unix.IPPROTO_MPTCP}
	line, err := multipath.attempt(t, l.pod, who{"the excluded user", uid, nil}, f)
	if !strings.HasPrefix(line, "peer ") && !missing(err) {
		t.Errorf("multipath TCP of the excluded user: %q, %v", line, err)
	}
}

// What listens on loopback alone stays private, whatever is excluded, although the pod routes packets to loopback
// addresses from outside: it has that sysctl from a node whose kube-proxy sets it.
func TestExclusionsKeepLoopback(t *testing.T) { forEachBackend(t, testExclusionsKeepLoopback) }

func testExclusionsKeepLoopback(t *testing.T, b testBackend) {
	l := newLab(t)
	f := families["IPv4"]
	populate(t, l, f)
	addInterface(t, l, "net1", 1)
	pod, peer := fmt.Sprintf(seconds["IPv4"].pod, 1), fmt.Sprintf(seconds["IPv4"].peer, 1)
	for _, ns := range []netns.NsHandle{l.pod, l.peer} {
		setSysctl(t, ns, "net/ipv4/conf/all/route_localnet", "1")
	}
	must(t, inside(t, l.peer, func() error {
		if err := deleteAddress("lo", "127.0.0.1/8"); err != nil { // or the peer would take the addresses for its own
			return err
		}
		return addRoutes(pod + " 127.0.0.0/8")
	}))
	for _, port := range []int{privatePort, api.AdminPort} { // control: without rules they are reached
		if _, line, err := connect(t, l.peer, 0, peer, hostPort("127.0.0.1", port)); err != nil || strings.HasPrefix(line, "inbound ") {
			t.Errorf("control, port %d: %q, %v", port, line, err)
		}
	}
	b.apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID, ExcludeInboundInterfaces: netset.Interfaces{"net1"}, ExcludeInboundPorts: netset.Ports{{First: 1, Last: 65535}}})
	for _, port := range []int{privatePort, api.AdminPort, api.OutboundPort, excludedIn} {
		t.Run(fmt.Sprint(port), step{ns: l.peer, source: peer, host: "127.0.0.1", port: port, answers: "inbound"}.check)
	}
	t.Run("control: the excluded port itself", step{ns: l.peer, source: peer, host: pod, port: excludedIn, answers: "opened"}.check)
	t.Run("control: the pod's own loopback", step{ns: l.pod, uid: appUID, host: "127.0.0.1", port: privatePort, answers: "private"}.check)
}
