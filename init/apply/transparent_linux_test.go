package apply

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// dialTransparent dials as the proxy does on a transparent port: from the client's own address, without a capability.
func dialTransparent(t *testing.T, ns netns.NsHandle, uid int, from, to string) (string, error) {
	t.Helper()
	var line string
	err := inside(t, ns, func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errno
		}
		addr := netip.MustParseAddrPort(to)
		domain := unix.AF_INET
		if addr.Addr().Is6() {
			domain = unix.AF_INET6
		}
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		limit := unix.Timeval{Sec: 1}
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, api.ProxyPriority)
		_ = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		if err := unix.Bind(fd, sockaddr(from, 0, domain)); err != nil {
			return err
		}
		if err := unix.Connect(fd, sockaddr(addr.Addr().String(), int(addr.Port()), domain)); err != nil {
			return err
		}
		b := make([]byte, 256)
		n, err := unix.Read(fd, b)
		line = strings.TrimSpace(string(b[:max(n, 0)]))
		return err
	})
	return line, err
}

// TestTransparent: on a transparent port the app sees the peer's own address, while the peer has a connection to the
// proxy as well; on every other port nobody gets it, and what the pod says to others goes where it went before.
func TestTransparent(t *testing.T) {
	for name, f := range families {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			populate(t, l, f)
			args := labArgs(t)
			args.TransparentPorts = netset.PortsOf(appPort)
			apply(t, l.pod, args)
			text := apply(t, l.pod, args) // again
			if !strings.Contains(text, rules.TransparentText(args.TransparentPorts)) {
				t.Errorf("printed\n%s", text)
			}
			if nft, err := exec.LookPath("nft"); err == nil {
				must(t, inside(t, l.pod, func() error {
					listed, err := exec.Command(nft, "list", "table", "inet", rules.TransparentTable).CombinedOutput()
					if got := strings.NewReplacer("priority mangle", "priority -150", "priority filter", "priority 0").Replace(string(listed)); got != rules.TransparentText(args.TransparentPorts) {
						t.Errorf("nft prints\n%s\nand we\n%s", got, rules.TransparentText(args.TransparentPorts))
					}
					return err
				}))
			}
			through, line, err := connect(t, l.peer, 0, "", hostPort(f.pod, appPort)) // what the proxy stands between
			if err != nil || !strings.HasPrefix(line, "inbound ") {
				t.Fatalf("the peer reaches %q, %v", line, err)
			}
			defer through.Close()
			for range 20 {
				if line, err := dialTransparent(t, l.pod, proxyUID, f.peer, hostPort(f.pod, appPort)); err != nil || !strings.HasPrefix(line, "app ") || !strings.HasSuffix(line, " "+f.peer) {
					t.Fatalf("the app says %q, %v", line, err)
				}
			}
			if line, err := dialTransparent(t, l.pod, appUID, f.peer, hostPort(f.foreign, servicePort)); err == nil && !strings.HasPrefix(line, "outbound ") {
				t.Errorf("another process, as the peer, to a Service: %q, %v", line, err)
			}
			for _, s := range steps(l, f) {
				t.Run(s.name, s.check)
			}
			text, err = tryRemove(t, host, l.pod)
			if err != nil || !strings.Contains(text, "transparent") || localRoutes(t, l.pod) != nil {
				t.Errorf("removed %q, %v; left are %v", text, err, localRoutes(t, l.pod))
			}
			must(t, inside(t, l.pod, func() error {
				held, err := netlink.RuleList(netlink.FAMILY_V4)
				if err == nil && (len(held) != 3 || held[0].Priority != 0 || held[0].Table != unix.RT_TABLE_LOCAL) {
					t.Errorf("rules of the routes after a removal: %v", held)
				}
				return err
			}))
			l.out(f, appUID, "peer").check(t)
		})
	}
}

// TestTransparentAnswersStay: where the rule of the routes is gone, the app's answers are dropped. They are plaintext,
// and would go to the client.
func TestTransparentAnswersStay(t *testing.T) {
	l, f := newLab(t), families["IPv4"]
	populate(t, l, f)
	apply(t, l.pod, podplan.InitArgs{ProxyUID: proxyUID, TransparentPorts: netset.PortsOf(appPort)})
	var wire int
	must(t, inside(t, l.peer, func() (err error) {
		wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0x0008) // ETH_P_IP
		return err
	}))
	defer unix.Close(wire)
	seen := func() (n int) { // packets of the app's port
		b := make([]byte, 2048)
		for {
			length, _, err := unix.Recvfrom(wire, b, 0)
			if err != nil {
				return n
			}
			if length > 24 && b[9] == unix.IPPROTO_TCP && int(b[20])<<8|int(b[21]) == appPort && netip.AddrFrom4([4]byte(b[12:16])).String() == pod4 {
				n++
			}
		}
	}
	if line, err := dialTransparent(t, l.pod, proxyUID, f.peer, hostPort(f.pod, appPort)); err != nil || seen() != 0 {
		t.Fatalf("the control fails: %q, %v", line, err)
	}
	must(t, inside(t, l.pod, func() error { return netlink.RuleDel(markRule(netlink.FAMILY_V4)) }))
	if line, err := dialTransparent(t, l.pod, proxyUID, f.peer, hostPort(f.pod, appPort)); err == nil {
		t.Errorf("got %q", line)
	}
	if n := seen(); n != 0 {
		t.Errorf("%d packets of the app's left the pod", n)
	}
}

// TestTransparentNeedsZones: with iptables, which has none, the pod does not start.
func TestTransparentNeedsZones(t *testing.T) {
	requirePrograms(t)
	args := podplan.InitArgs{ProxyUID: proxyUID, Backend: podplan.BackendIPTables, TransparentPorts: netset.PortsOf(appPort), ClientCIDRs: clientaddr.Ranges{}}
	if text, err := tryApply(t, newNetns(t), args); err == nil || text != "" || !strings.Contains(err.Error(), "zones of conntrack") {
		t.Errorf("got %q, %v", text, err)
	}
}
