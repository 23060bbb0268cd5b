package listen_test

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/test/program"
)

// inNamespace runs f in a network namespace of its own, with lo up, on a thread of its own.
func inNamespace(t *testing.T, f func(lo netlink.Link) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		program.Missing(t, "root for network namespaces: sudo -E go test ./proxy/listen")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: Go then ends the thread instead of using it again
		ns, err := netns.New()
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			err = f(lo)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// local makes networks local, as init does.
func local(lo netlink.Link, networks ...string) error {
	for _, n := range networks {
		_, dst, err := net.ParseCIDR(n)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, Dst: dst}); err != nil {
			return err
		}
	}
	return nil
}

// becomeProxy gives the thread the proxy's user, which has no capability.
func becomeProxy() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 15000, 15000, 15000); errno != 0 {
		return errno
	}
	return nil
}

// TestFindRanges: the proxy, without a capability, finds what init has made local, and dials from any address there.
func TestFindRanges(t *testing.T) {
	const v6 = "fd6d:6573:686c::/64"
	for name, test := range map[string]struct {
		local      []string
		own        string // address of the pod
		configured string
		want       string // empty: an error
	}{
		"the default":                       {[]string{"198.18.0.0/15", v6}, "", "", "198.18.0.0/15," + v6},
		"init chose another":                {[]string{"240.240.0.0/16", v6}, "198.19.4.5/24", "", "240.240.0.0/16," + v6},
		"the pod is where probes come from": {[]string{"240.240.0.0/16", v6}, "198.18.0.1/24", "", "240.240.0.0/16," + v6},
		"by the configuration":              {[]string{"100.64.0.0/16", "fd12::/64"}, "", "100.64.0.0/16,fd12::/64", "100.64.0.0/16,fd12::/64"},
		"the configuration, not init":       {[]string{"198.18.0.0/15", v6}, "", "100.64.0.0/16", ""},
		"nothing":                           {nil, "", "", ""},
		"IPv4 alone, while IPv6 is there":   {[]string{"198.18.0.0/15"}, "", "", ""},
		"IPv6 alone":                        {[]string{v6}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			configured, err := clientaddr.Parse(test.configured)
			if err != nil {
				t.Fatal(err)
			}
			inNamespace(t, func(lo netlink.Link) error {
				if err := local(lo, test.local...); err != nil {
					return err
				}
				if test.own != "" {
					own, err := netlink.ParseAddr(test.own)
					if err != nil {
						return err
					}
					if err := netlink.AddrAdd(lo, own); err != nil {
						return err
					}
				}
				if err := becomeProxy(); err != nil {
					return err
				}
				got, err := listen.FindRanges(t.Context(), configured)
				if got.String() != test.want || (err == nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), "meshless-init") {
					t.Errorf("got %q, %v; want %q", got, err, test.want)
				}
				if err != nil {
					return nil
				}
				for loopback, from := range map[string]string{"127.0.0.1:0": got.V4.String(), "[::1]:0": got.V6.String()} {
					dialFrom(t, loopback, netip.MustParsePrefix(from))
				}
				return nil
			})
		})
	}
}

// dialFrom dials from a client's address.
func dialFrom(t *testing.T, loopback string, p netip.Prefix) {
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Error(err)
		return
	}
	defer l.Close()
	source := clientaddr.Preferred(p, netip.MustParseAddr("10.244.1.7"))
	c, err := listen.DialTCP(t.Context(), listen.AppDialer(source, time.Second), listen.AddrPort(l.Addr()))
	if err != nil {
		t.Errorf("from %s: %v", source, err)
		return
	}
	defer c.Close()
	if got := listen.AddrPort(c.LocalAddr()).Addr(); got != source {
		t.Errorf("dialed from %s, want %s", got, source)
	}
}

// TestFindRangesWithoutIPv6: a pod that has none needs none.
func TestFindRangesWithoutIPv6(t *testing.T) {
	inNamespace(t, func(lo netlink.Link) error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
		if err := local(lo, "198.18.0.0/15"); err != nil {
			return err
		}
		got, err := listen.FindRanges(t.Context(), clientaddr.Ranges{})
		if got.String() != "198.18.0.0/15" {
			t.Errorf("got %q, %v", got, err)
		}
		return nil
	})
}
