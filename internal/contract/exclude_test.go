package contract_test

import (
	"io"
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

func TestInitArgsRefusesHoles(t *testing.T) {
	for _, bad := range [][]string{
		{"--exclude-outbound-uids=0"}, {"--exclude-outbound-uids=15000"}, {"--proxy-uid=7", "--exclude-outbound-uids=6,7"}, {"--exclude-inbound-interfaces=eth0"},
		{"--exclude-outbound-interfaces=lo"}, {"--exclude-outbound-interfaces=*"},
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
