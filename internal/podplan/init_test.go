package podplan_test

import (
	"io"
	"testing"

	"github.com/meshless-dev/meshless/internal/podplan"
)

func TestInitArgsRefusesHoles(t *testing.T) {
	for _, bad := range [][]string{
		{"--exclude-outbound-uids=0"}, {"--exclude-outbound-uids=15000"}, {"--proxy-uid=7", "--exclude-outbound-uids=6,7"}, {"--exclude-inbound-interfaces=eth0"},
		{"--exclude-outbound-interfaces=lo"}, {"--exclude-outbound-interfaces=*"}, {"--exclude-outbound-cidrs=::ffff:10.0.0.0/104"},
	} {
		if args, err := podplan.ParseInitArgs(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted as %+v", bad, args)
		}
	}
}

func TestInitCommand(t *testing.T) {
	c, err := podplan.ParseInitCommand([]string{"remove"}, io.Discard)
	if err != nil || !c.Remove || c.Apply != nil {
		t.Errorf("remove: %+v, %v", c, err)
	}
	c, err = podplan.ParseInitCommand([]string{"--proxy-uid=7"}, io.Discard)
	if err != nil || c.Remove || c.Apply == nil || c.Apply.ProxyUID != 7 {
		t.Errorf("--proxy-uid=7: %+v, %v", c, err)
	}
	for _, bad := range [][]string{{"remove", "all"}, {"remove", "--proxy-uid=7"}, {"--proxy-uid=7", "remove"}, {"Remove"}, {""}} {
		if c, err := podplan.ParseInitCommand(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted as %+v", bad, c)
		}
	}
	for _, args := range [][]string{{"remove"}, {"--remove"}} {
		if _, err := podplan.ParseInitArgs(args, io.Discard); err == nil {
			t.Errorf("%v passes for arguments of an init container", args)
		}
	}
}
