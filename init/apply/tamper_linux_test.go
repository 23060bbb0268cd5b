package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Something else writes into our table between our commit and our look at it. Each run then either holds what was
// meant, or fails and prints nothing; and it is noticed.
func TestApplyNoticesTampering(t *testing.T) {
	ns := newNetns(t)
	args := podplan.InitArgs{ProxyUID: proxyUID}
	good := apply(t, ns, args)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- inside(t, ns, func() error {
			table := &nftables.Table{Family: nftables.TableFamilyINet, Name: rules.Table}
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				conn := &nftables.Conn{}
				conn.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: rules.Output}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
				if err := conn.Flush(); err != nil && !noNFTables(err) {
					// the table may be missing between two commits of the test's end
					return err
				}
			}
		})
	}()
	noticed := 0
	for range 200 {
		text, err := tryApply(t, ns, args)
		switch {
		case err == nil && text != good:
			t.Errorf("printed\n%s\nwant\n%s", text, good)
		case err != nil && (text != "" || !strings.Contains(err.Error(), "differs from what was written: chain output: rule ")):
			t.Errorf("got %q, %v", text, err)
		// a read beside a write may lack a rule, and then a later one differs first: an error as well, and no proof
		case err != nil && strings.Contains(err.Error(), "chain output: rule 1 is return"):
			noticed++
		}
		if noticed >= 3 || t.Failed() {
			break
		}
	}
	close(stop)
	must(t, <-done)
	if noticed == 0 {
		t.Error("200 runs beside somebody who writes into the table noticed nothing")
	}
	if text := apply(t, ns, args); text != good {
		t.Errorf("the run after it printed\n%s", text)
	}
}

// The same for iptables, with a program that adds a rule of its own to what it is told.
func TestIPTablesNoticesTampering(t *testing.T) { forEachVariant(t, testIPTablesNoticesTampering) }

func testIPTablesNoticesTampering(t *testing.T, b testBackend) {
	s := b.system(t)
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		real := host.program(b.variant, f, "restore")
		at := filepath.Join(s.directories[0], filepath.Base(real))
		must(t, os.Remove(at))
		script := fmt.Sprintf("#!/bin/sh\n%s \"$@\" || exit\nexec %s -t nat -I MESHLESS_OUTPUT -d 192.0.2.1 -j RETURN\n", real, strings.TrimSuffix(real, "-restore"))
		must(t, os.WriteFile(at, []byte(script), 0o755))
	}
	text, err := tryOn(t, s, newNetns(t), podplan.InitArgs{ProxyUID: proxyUID, Backend: podplan.BackendIPTables})
	if err == nil || text != "" || !strings.Contains(err.Error(), errDiffers.Error()) || !strings.Contains(err.Error(), "rule 1 is -d 192.0.2.1/32 -j RETURN") {
		t.Errorf("got %q, %v, want a failure that names the rule", text, err)
	}
}
