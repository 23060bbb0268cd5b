package contract_test

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/internal/contract"
)

func TestInterfaces(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "net1": "net1", "net2, net1,net2": "net1,net2", "eth0.100": "eth0.100", "abcdefghijklmno": "abcdefghijklmno", "br-0a_1": "br-0a_1", "eth1": "eth1", "lo1": "lo1",
	} {
		names, err := contract.ParseInterfaces(text)
		if err != nil || names.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, names, err, want)
		}
	}
	for text, want := range map[string]string{
		"abcdefghijklmnop": "is not the name", "net*": "is not the name", "net+": "is not the name", "a b": "is not the name", "a/b": "is not the name", ".": "is not the name",
		"..": "is not the name", "-i": "is not the name", "!net1": "is not the name", `n"`: "is not the name", "net1,": "is not the name", "ünet": "is not the name",
		"a:b": "is not the name", "lo": "is the pod itself", "net1,eth0": "inject: disabled",
	} {
		if names, err := contract.ParseInterfaces(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %q, %v; want an error that says %q", text, names, err, want)
		}
	}
}

func TestUIDs(t *testing.T) {
	for text, want := range map[string]string{"": "", "1001": "1001", "1002, 1001,1002": "1001,1002", "2147483647": "2147483647"} {
		uids, err := contract.ParseUIDs(text)
		if err != nil || uids.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, uids, err, want)
		}
	}
	for text, want := range map[string]string{
		"0": "is root", "1001,0": "is root", "-1": "is not a user id", "2147483648": "is not a user id", "nobody": "is not a user id", "1-5": "is not a user id", "1,,2": "is not a user id",
	} {
		if uids, err := contract.ParseUIDs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %q, %v; want an error that says %q", text, uids, err, want)
		}
	}
	if err := (contract.UIDs{7, 15000}).Validate(15000); err == nil || !strings.Contains(err.Error(), "the proxy's user") {
		t.Errorf("the proxy's user: %v", err)
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "10.1.0.0/16": "10.1.0.0/16", "fd00::/8, 10.1.0.0/16,10.0.0.0/8,fd00::/8,10.1.0.0/16": "fd00::/8,10.1.0.0/16,10.0.0.0/8", "::/0,0.0.0.0/0,": "::/0,0.0.0.0/0",
	} {
		prefixes, err := contract.ParsePrefixes(text)
		if got := spelled(prefixes); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"10.0.0.1": `"10.0.0.1" is not a network`, "10.0.0.1/8": "has host bits set; write 10.0.0.0/8", "fe80::%eth0/64": "is not a network",
		"10.0.0.0/8,::ffff:10.0.0.0/104": "write it as an IPv4 network, 10.0.0.0/8", "::ffff:0:0/96": "write it as an IPv4 network, 0.0.0.0/0", "::ffff:10.0.0.0/80": "has host bits set; write ::/80",
	} {
		if prefixes, err := contract.ParsePrefixes(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v, %v; want an error that says %q", text, prefixes, err, want)
		}
	}
	if err := contract.ValidatePrefix(netip.Prefix{}); err == nil {
		t.Error("what is no network: accepted")
	}
	some := []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.0.0.0/8")}
	if got := spelled(contract.UnionPrefixes(some, nil, some[:1])); got != "10.0.0.0/8,fd00::/8" {
		t.Errorf("the union is %s", got)
	}
	if spelled(some) != "fd00::/8,10.0.0.0/8" {
		t.Error("the union has sorted its argument")
	}
}

func spelled(prefixes []netip.Prefix) string {
	parts := make([]string, len(prefixes))
	for i, p := range prefixes {
		parts[i] = p.String()
	}
	return strings.Join(parts, ",")
}

func TestInitArgsRefusesHoles(t *testing.T) {
	for _, bad := range [][]string{
		{"--exclude-outbound-uids=0"}, {"--exclude-outbound-uids=15000"}, {"--proxy-uid=7", "--exclude-outbound-uids=6,7"}, {"--exclude-inbound-interfaces=eth0"},
		{"--exclude-outbound-interfaces=lo"}, {"--exclude-outbound-interfaces=*"}, {"--exclude-outbound-cidrs=::ffff:10.0.0.0/104"},
	} {
		if args, err := contract.ParseInitArgs(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted as %+v", bad, args)
		}
	}
}

// The command that removes the rules must not pass for arguments of an init container: `meshless verify` reads these with ParseInitArgs.
func TestInitCommand(t *testing.T) {
	c, err := contract.ParseInitCommand([]string{"remove"}, io.Discard)
	if err != nil || !c.Remove || c.Apply != nil {
		t.Errorf("remove: %+v, %v", c, err)
	}
	c, err = contract.ParseInitCommand([]string{"--proxy-uid=7"}, io.Discard)
	if err != nil || c.Remove || c.Apply == nil || c.Apply.ProxyUID != 7 {
		t.Errorf("--proxy-uid=7: %+v, %v", c, err)
	}
	for _, bad := range [][]string{{"remove", "all"}, {"remove", "--proxy-uid=7"}, {"--proxy-uid=7", "remove"}, {"Remove"}, {""}} {
		if c, err := contract.ParseInitCommand(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted as %+v", bad, c)
		}
	}
	for _, args := range [][]string{{"remove"}, {"--remove"}} {
		if _, err := contract.ParseInitArgs(args, io.Discard); err == nil {
			t.Errorf("%v passes for arguments of an init container", args)
		}
	}
}
