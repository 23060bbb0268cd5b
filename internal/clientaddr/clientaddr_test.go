package clientaddr_test

import (
	"net/netip"
	"testing"

	"github.com/meshless-dev/meshless/internal/clientaddr"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// TestChoose: the range has none of the networks that the pod sees.
func TestChoose(t *testing.T) {
	for name, test := range map[string]struct {
		configured string
		taken      []netip.Prefix
		want       string // empty: refused
	}{
		"nothing is seen":             {"", nil, "198.18.0.0/15,fd6d:6573:686c::/64"},
		"usual networks":              {"", prefixes("10.244.1.7/24", "10.96.0.1/32", "fd00:10::7/128"), "198.18.0.0/15,fd6d:6573:686c::/64"},
		"pods are there":              {"", prefixes("198.19.4.5/24"), "240.240.0.0/16,fd6d:6573:686c::/64"},
		"Services are there":          {"", prefixes("10.0.0.7/24", "198.18.0.1/32"), "240.240.0.0/16,fd6d:6573:686c::/64"},
		"routes to everything":        {"", prefixes("0.0.0.0/0", "128.0.0.0/1", "fc00::/7"), "198.18.0.0/15,fd6d:6573:686c::/64"},
		"a route holds it":            {"", prefixes("198.0.0.0/8"), "240.240.0.0/16,fd6d:6573:686c::/64"},
		"the second as well":          {"", prefixes("198.18.0.1/32", "240.0.0.0/4"), "192.0.2.0/24,fd6d:6573:686c::/64"},
		"all are taken":               {"", prefixes("198.18.0.1/32", "240.0.0.0/4", "192.0.2.9/32"), ""},
		"the IPv6 one is taken":       {"", prefixes("fd6d:6573:686c::9/128"), ""},
		"by the configuration":        {"100.64.0.0/16", prefixes("10.0.0.1/8"), "100.64.0.0/16,fd6d:6573:686c::/64"},
		"both":                        {"fd12::/64,100.64.0.0/16", nil, "100.64.0.0/16,fd12::/64"},
		"of the configuration, taken": {"100.64.0.0/16", prefixes("100.64.3.4/32"), ""},
	} {
		configured, err := clientaddr.Parse(test.configured)
		if err != nil {
			t.Fatal(err)
		}
		got, err := clientaddr.Choose(configured, test.taken)
		if got.String() != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, test.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range []string{"x", "10.0.0.0", "10.0.0.0/7", "10.0.0.0/25", "10.0.0.1/16", "127.0.0.0/8", "126.0.0.0/7", "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/8",
		"255.255.255.0/24", "fd00::/48", "fd00::/65", "fd00::1/64", "::/64", "fe80::/64", "ff02::/64", "::ffff:10.0.0.0/112", "10.1.0.0/16,10.2.0.0/16", "fd00::/64,fd01::/64"} {
		if r, err := clientaddr.Parse(bad); err == nil {
			t.Errorf("%q: accepted as %s", bad, r)
		}
	}
}

func TestPreferred(t *testing.T) {
	for _, test := range []struct{ network, client, want string }{
		{"198.18.0.0/15", "10.244.1.7", "198.18.1.7"},
		{"198.18.0.0/15", "10.245.1.7", "198.19.1.7"},
		{"198.18.0.0/15", "::ffff:10.244.1.7", "198.18.1.7"},
		{"10.0.0.0/8", "192.168.3.4", "10.168.3.4"},
		{"192.0.2.0/24", "10.1.2.3", "192.0.2.3"},
		// no client has the network's address, that of the probes, or the last one
		{"198.18.0.0/15", "10.244.0.0", "198.18.0.2"},
		{"198.18.0.0/15", "10.244.0.1", "198.18.0.2"},
		{"198.18.0.0/15", "10.245.255.255", "198.18.0.2"},
		{"fd6d:6573:686c::/64", "10.244.1.7", "fd6d:6573:686c::af4:107"},
		{"fd6d:6573:686c::/64", "fd00:10:244:1::7", "fd6d:6573:686c:0:8d2b:fa41:0:7"},
		{"fd6d:6573:686c::/64", "fd00:10:244:2::7%eth0", "fd6d:6573:686c:0:b936:22f8:0:7"},
	} {
		p := netip.MustParsePrefix(test.network)
		if got := clientaddr.Preferred(p, netip.MustParseAddr(test.client)); got.String() != test.want || !p.Contains(got) {
			t.Errorf("%s in %s: got %s, want %s", test.client, p, got, test.want)
		}
	}
}

// TestNext goes once around the smallest range: each address that a client may have comes once.
func TestNext(t *testing.T) {
	p := netip.MustParsePrefix("192.0.2.0/24")
	seen := map[netip.Addr]bool{}
	addr := clientaddr.Preferred(p, netip.MustParseAddr("10.0.0.200"))
	for range clientaddr.Size(p) {
		seen[addr] = true
		addr = clientaddr.Next(p, addr)
	}
	probe := clientaddr.Ranges{V4: p}.Probe(netip.MustParseAddr("10.0.0.1"))
	if len(seen) != 253 || !seen[addr] || seen[probe] || probe.String() != "192.0.2.1" {
		t.Errorf("%d addresses, back at %s, probes from %s", len(seen), addr, probe)
	}
	for _, no := range []string{"192.0.2.0", "192.0.2.1", "192.0.2.255"} {
		if seen[netip.MustParseAddr(no)] {
			t.Errorf("%s is a client's", no)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("198.18.0.0/15,fd6d:6573:686c::/64")
	f.Add(" ,10.0.0.0/8")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := clientaddr.Parse(text)
		if err != nil {
			return
		}
		again, err := clientaddr.Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %q, and read again %q, %v", text, r, again, err)
		}
	})
}

func FuzzPreferred(f *testing.F) {
	f.Add([]byte{10, 244, 1, 7}, "198.18.0.0/15")
	f.Fuzz(func(t *testing.T, raw []byte, network string) {
		client, ok := netip.AddrFromSlice(raw)
		r, err := clientaddr.Parse(network)
		if !ok || err != nil {
			return
		}
		for _, p := range []netip.Prefix{r.V4, r.V6} {
			if !p.IsValid() {
				continue
			}
			got := clientaddr.Preferred(p, client)
			if probe := r.Probe(got); !p.Contains(got) || got == probe || got == p.Addr() || !p.Contains(clientaddr.Next(p, got)) {
				t.Errorf("%s in %s: %s", client, p, got)
			}
		}
	})
}
