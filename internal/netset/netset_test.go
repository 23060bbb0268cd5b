package netset_test

import (
	"errors"
	"testing"

	"github.com/meshless-dev/meshless/internal/netset"
)

func TestPorts(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "80": "80", "443, 80": "80,443", "80-82,81-90": "80-90", "80,81": "80-81", "1-65535": "1-65535", "22,9000-9010": "22,9000-9010", "65535": "65535",
	} {
		ports, err := netset.ParsePorts(text)
		if err != nil || ports.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, ports, err, want)
		}
	}
	for _, bad := range []string{"0", "65536", "a", "90-80", "80-", "-", "80,,81", "+80", "8 0"} {
		if ports, err := netset.ParsePorts(bad); err == nil {
			t.Errorf("%q is %q", bad, ports)
		}
	}
	ports, err := netset.ParsePorts("22,9000-9010")
	if err != nil || !ports.Contains(9010) || ports.Contains(9011) || ports.Contains(21) {
		t.Error("Contains is wrong")
	}
	if got := ports.Intersect(netset.PortsOf(9005, 22, 23)).String(); got != "22,9005" {
		t.Errorf("the intersection is %s", got)
	}
	if got := ports.Union(netset.PortsOf(23), nil).String(); got != "22-23,9000-9010" {
		t.Errorf("the union is %s", got)
	}
}

func FuzzParsePorts(f *testing.F) {
	f.Add("80,9000-9010")
	f.Fuzz(func(t *testing.T, text string) {
		ports, err := netset.ParsePorts(text)
		if err != nil {
			return
		}
		if again, err := netset.ParsePorts(ports.String()); err != nil || again.String() != ports.String() {
			t.Errorf("%q reads as %q and again as %q, %v", text, ports, again, err)
		}
	})
}

// TestMinus: a port is in the difference if it is in the first set and not in the second.
func TestMinus(t *testing.T) {
	for _, sets := range [][2]string{{"80", ""}, {"80", "80"}, {"80-90", "80"}, {"80-90", "90"}, {"80-90", "85"}, {"80-90", "82-83,85,88-95"}, {"1-65535", "1,65535"}, {"1-65535", "1-65535"}, {"80,90", "1-79,81-89,91"}} {
		var a, b netset.Ports
		if err := errors.Join(a.UnmarshalText([]byte(sets[0])), b.UnmarshalText([]byte(sets[1]))); err != nil {
			t.Fatal(err)
		}
		left := a.Minus(b)
		for port := range 1 << 16 {
			if p := uint16(port); left.Contains(p) != (a.Contains(p) && !b.Contains(p)) {
				t.Errorf("%s without %s is %s", a, b, left)
				break
			}
		}
		if a.String() != sets[0] {
			t.Errorf("%s has become %s", sets[0], a)
		}
	}
}
