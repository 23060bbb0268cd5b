package netset_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/netset"
)

var same = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func FuzzPortsMean(f *testing.F) {
	f.Add("80,9000-9010", uint16(9005))
	f.Add(" 1-65535 ,7", uint16(65535))
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		ports, err := netset.ParsePorts(text)
		if err != nil {
			return
		}
		if port == 0 && ports.Contains(0) {
			t.Errorf("%q holds port 0", text)
		}
		named := slices.ContainsFunc(strings.Split(text, ","), func(part string) bool {
			one, err := netset.ParsePorts(part)
			return err == nil && one.Contains(port)
		})
		if got := ports.Contains(port); got != named {
			t.Errorf("%q contains %d: %t, but of its parts: %t", text, port, got, named)
		}
		for i := 1; i < len(ports); i++ {
			if int(ports[i].First) <= int(ports[i-1].Last)+1 {
				t.Errorf("%q is %s: not sorted and merged", text, ports)
			}
		}
	})
}

func FuzzParsePrefixes(f *testing.F) {
	f.Add("10.1.0.0/16,fd00::/8")
	f.Add("0.0.0.0/0, ::/0,")
	f.Add("::ffff:10.0.0.0/104")
	f.Add("fe80::%eth0/64")
	f.Fuzz(func(t *testing.T, text string) {
		prefixes, err := netset.ParsePrefixes(text)
		if err != nil {
			return
		}
		written := map[string]bool{}
		for part := range strings.SplitSeq(text, ",") {
			if p, err := netip.ParsePrefix(strings.TrimSpace(part)); err == nil {
				written[p.String()] = true
			}
		}
		if len(prefixes) != len(written) {
			t.Errorf("%q has %d networks, read %v", text, len(written), prefixes)
		}
		for _, p := range prefixes {
			if !p.IsValid() || p != p.Masked() || p.Addr().Zone() != "" || p.Addr().Is4In6() || !written[p.String()] {
				t.Errorf("%q gives %v", text, p)
			}
		}
		again, err := netset.ParsePrefixes(prefixes.String())
		if diff := cmp.Diff(prefixes, again, same); err != nil || diff != "" {
			t.Errorf("%q reads differently again: %v %s", text, err, diff)
		}
	})
}
