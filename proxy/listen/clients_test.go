package listen_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/listen"
)

var app4, app6 = netip.MustParseAddr("10.244.9.9"), netip.MustParseAddr("fd00::9")

// client is the n-th of those that prefer the same address of a /24.
func client(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 7}) }

func TestClientsHaveAddressesOfTheirOwn(t *testing.T) {
	c := listen.NewClients(clientaddr.Default)
	for _, test := range []struct{ from, to, want string }{
		{"10.244.1.7", "10.244.9.9", "198.18.1.7"},
		{"::ffff:10.244.1.7", "10.244.9.9", "198.18.1.7"}, // the same
		{"10.245.1.7", "10.244.9.9", "198.19.1.7"},
		{"10.246.1.7", "10.244.9.9", "198.18.1.8"}, // as the first is there
		{"10.244.1.8", "10.244.9.9", "198.18.1.9"},
		{"10.244.0.1", "10.244.9.9", "198.18.0.2"}, // no client is where our probes come from
		{"fd00:10:244:1::7", "fd00::9", "fd6d:6573:686c:0:8d2b:fa41:0:7"},
		{"fe80::7%eth0", "fd00::9", "fd6d:6573:686c:0:800f:12cb:0:7"},
	} {
		app, release := c.Acquire(netip.MustParseAddr(test.from), netip.MustParseAddr(test.to), "")
		if app.String() != test.want {
			t.Errorf("%s: got %s, want %s", test.from, app, test.want)
		}
		t.Cleanup(release)
	}
}

// TestClientKeepsItsAddress: with connections, without, and beside others that want the same.
func TestClientKeepsItsAddress(t *testing.T) {
	c := listen.NewClients(clientaddr.Default)
	first, release := c.Acquire(netip.MustParseAddr("10.244.1.7"), app4, "spiffe://a/b")
	second, releaseSecond := c.Acquire(netip.MustParseAddr("10.246.1.7"), app4, "")
	release()
	release() // counts once
	releaseSecond()
	for range 3 {
		for from, want := range map[string]netip.Addr{"10.244.1.7": first, "10.246.1.7": second} {
			got, release := c.Acquire(netip.MustParseAddr(from), app4, "")
			if got != want {
				t.Errorf("%s was at %s and is at %s", from, want, got)
			}
			release()
		}
	}
	seen := c.Seen()
	if len(seen) != 2 || seen[0].Client.String() != "10.244.1.7" || seen[0].Identity != "spiffe://a/b" || seen[0].App != first || seen[0].Connections != 0 ||
		seen[0].Since.After(seen[0].Last) {
		t.Errorf("seen are %+v", seen)
	}
}

// TestNoTwoClientsShare: as long as an address is free; then the longest idle one gives its own away; only then do two
// share, and what is given back is free again.
func TestNoTwoClientsShare(t *testing.T) {
	r := clientaddr.Ranges{V4: netip.MustParsePrefix("192.0.2.0/24")}
	c := listen.NewClients(r)
	size := int(clientaddr.Size(r.V4))
	held := map[netip.Addr]bool{}
	var releases []func()
	for n := range size {
		app, release := c.Acquire(client(n), app4, "")
		if held[app] || !r.V4.Contains(app) || app == r.Probe(app4) {
			t.Fatalf("client %d is at %s, which is taken", n, app)
		}
		held[app] = true
		releases = append(releases, release)
	}
	shared, releaseShared := c.Acquire(client(size), app4, "")
	if shared != clientaddr.Preferred(r.V4, client(size)) {
		t.Errorf("with no address left, a client is at %s", shared)
	}
	releaseShared()
	releases[5]()
	releases[3]()
	app, release := c.Acquire(client(size+1), app4, "")
	fifth, releaseFifth := c.Acquire(client(5), app4, "")
	if app == shared || app == fifth {
		t.Errorf("two clients are at one address while others are idle: %s, %s, %s", app, fifth, shared)
	}
	release()
	releaseFifth()
}

// TestClientsAreForgotten: what strangers leave behind is bounded, and who has a connection is not forgotten.
func TestClientsAreForgotten(t *testing.T) {
	c := listen.NewClients(clientaddr.Ranges{V4: netip.MustParsePrefix("10.0.0.0/8"), V6: clientaddr.Default.V6})
	live, releaseLive := c.Acquire(netip.MustParseAddr("172.16.0.9"), app4, "")
	defer releaseLive()
	for n := range 10_000 {
		_, release := c.Acquire(netip.AddrFrom4([4]byte{172, 20, byte(n >> 8), byte(n)}), app4, "")
		release()
	}
	if n := len(c.Seen()); n != 4096+1 {
		t.Errorf("%d are remembered", n)
	}
	again, release := c.Acquire(netip.MustParseAddr("172.16.0.9"), app4, "")
	release()
	if again != live {
		t.Errorf("a client with a connection was at %s and is at %s", live, again)
	}
}

// TestClientsWithoutRanges: the choice is the system's, as on a laptop.
func TestClientsWithoutRanges(t *testing.T) {
	c := listen.NewClients(clientaddr.Ranges{})
	for _, dst := range []netip.Addr{app4, app6} {
		app, release := c.Acquire(dst, dst, "")
		if app.IsValid() {
			t.Errorf("got %s", app)
		}
		release()
	}
	if len(c.Seen()) != 2 {
		t.Errorf("seen are %+v", c.Seen())
	}
}

func TestClientsAtOnce(t *testing.T) {
	c := listen.NewClients(clientaddr.Ranges{V4: netip.MustParsePrefix("192.0.2.0/24")})
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range 2000 {
				_, release := c.Acquire(client(n%300), app4, fmt.Sprint(worker))
				if n%7 == 0 {
					c.Seen()
				}
				release()
			}
		})
	}
	all.Wait()
	for _, k := range c.Seen() {
		if k.Connections != 0 {
			t.Errorf("%+v has connections after all have ended", k)
		}
	}
}

func BenchmarkClients(b *testing.B) {
	c := listen.NewClients(clientaddr.Default)
	from := netip.MustParseAddr("10.244.1.7")
	for b.Loop() {
		_, release := c.Acquire(from, app4, "spiffe://a/b")
		release()
	}
}
