package netset_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/netset"
)

func TestInterfaces(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "net1": "net1", "net2, net1,net2": "net1,net2", "eth0.100": "eth0.100", "abcdefghijklmno": "abcdefghijklmno", "br-0a_1": "br-0a_1", "eth1": "eth1", "lo1": "lo1",
	} {
		names, err := netset.ParseInterfaces(text)
		if err != nil || names.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, names, err, want)
		}
	}
	for text, want := range map[string]string{
		"abcdefghijklmnop": "is not the name", "net*": "is not the name", "net+": "is not the name", "a b": "is not the name", "a/b": "is not the name", ".": "is not the name",
		"..": "is not the name", "-i": "is not the name", "!net1": "is not the name", `n"`: "is not the name", "net1,": "is not the name", "ünet": "is not the name",
		"a:b": "is not the name", "lo": "is the pod itself", "net1,eth0": "inject: disabled",
	} {
		if names, err := netset.ParseInterfaces(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %q, %v; want an error that says %q", text, names, err, want)
		}
	}
}

func TestUIDs(t *testing.T) {
	for text, want := range map[string]string{"": "", "1001": "1001", "1002, 1001,1002": "1001,1002", "2147483647": "2147483647"} {
		uids, err := netset.ParseUIDs(text)
		if err != nil || uids.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, uids, err, want)
		}
	}
	for text, want := range map[string]string{
		"0": "is root", "1001,0": "is root", "-1": "is not a user id", "2147483648": "is not a user id", "nobody": "is not a user id", "1-5": "is not a user id", "1,,2": "is not a user id",
	} {
		if uids, err := netset.ParseUIDs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %q, %v; want an error that says %q", text, uids, err, want)
		}
	}
	if err := (netset.UIDs{7, 15000}).Validate(15000); err == nil || !strings.Contains(err.Error(), "the proxy's user") {
		t.Errorf("the proxy's user: %v", err)
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "10.1.0.0/16": "10.1.0.0/16", "fd00::/8, 10.1.0.0/16,10.0.0.0/8,fd00::/8,10.1.0.0/16": "fd00::/8,10.1.0.0/16,10.0.0.0/8", "::/0,0.0.0.0/0,": "::/0,0.0.0.0/0",
	} {
		prefixes, err := netset.ParsePrefixes(text)
		if got := prefixes.String(); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"10.0.0.1": `"10.0.0.1" is not a network`, "10.0.0.1/8": "has host bits set; write 10.0.0.0/8", "fe80::%eth0/64": "is not a network",
		"10.0.0.0/8,::ffff:10.0.0.0/104": "write it as an IPv4 network, 10.0.0.0/8", "::ffff:0:0/96": "write it as an IPv4 network, 0.0.0.0/0", "::ffff:10.0.0.0/80": "has host bits set; write ::/80",
	} {
		if prefixes, err := netset.ParsePrefixes(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v, %v; want an error that says %q", text, prefixes, err, want)
		}
	}
	if err := netset.ValidatePrefix(netip.Prefix{}); err == nil {
		t.Error("what is no network: accepted")
	}
	some := netset.Prefixes{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.0.0.0/8")}
	if got := some.Union(nil, some[:1]).String(); got != "10.0.0.0/8,fd00::/8" {
		t.Errorf("the union is %s", got)
	}
	if some.String() != "fd00::/8,10.0.0.0/8" {
		t.Error("the union has sorted its argument")
	}
	if addr := netip.MustParseAddr; !some.Contains(addr("10.255.0.1")) || some.Contains(addr("11.0.0.0")) || !some.Contains(addr("fd01::1")) {
		t.Error("Contains is wrong")
	}
	if prefix := netip.MustParsePrefix; !some.Overlaps(prefix("10.1.0.0/16")) || !some.Overlaps(prefix("::/0")) || some.Overlaps(prefix("11.0.0.0/8")) {
		t.Error("Overlaps is wrong")
	}
}
