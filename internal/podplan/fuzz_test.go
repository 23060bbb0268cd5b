package podplan_test

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

var same = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func FuzzWorkloadEqual(f *testing.F) {
	f.Add([]byte(`{"spiffeID":"spiffe://a/b","permissivePorts":"80-90,100","tlsPassthroughPorts":"8443","strictPorts":"22","handlers":{"a/b":{"httpGet":{"port":1,"path":"/<x>?&","scheme":"HTTPS","headers":[{"name":"A","value":"\u2028"}]}}}}`))
	f.Add([]byte(`{"spiffeID":"spiffe://a/b","proxyProtocolPorts":"5432","handlers":{"a/b":{"grpc":{"port":1,"service":"s"},"timeoutSeconds":3},"c/d":{"tcpSocket":{"port":9}}}}`))
	f.Add([]byte("{\"spiffeID\":\"spiffe://a/b\",\"handlers\":{\"a/b\":{\"grpc\":{\"port\":1,\"service\":\"@text 1\"}}}}\n@text 1: ${A}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := podplan.ParseWorkload(data)
		if err != nil {
			return
		}
		text, err := w.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := podplan.ParseWorkload(text)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(w, again, same); diff != "" {
			t.Errorf("reading again differs: %s\n%s", diff, text)
		}
	})
}

func FuzzParseInitArgs(f *testing.F) {
	f.Add(strings.Join(podplan.InitArgs{ProxyUID: 15000, ExcludeInboundPorts: netset.PortsOf(22), ExcludeOutboundPorts: netset.PortsOf(25, 26),
		ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Backend: podplan.BackendNFTables}.Args(), "\n"))
	f.Add("--proxy-uid\n1\n-exclude-inbound-ports=1-5,3-9")
	f.Add("--help")
	f.Add("--\nstray")
	f.Fuzz(func(t *testing.T, text string) {
		args, err := podplan.ParseInitArgs(strings.Split(text, "\n"), io.Discard)
		if err != nil {
			if !errors.Is(err, flag.ErrHelp) && err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		if args.ProxyUID < 1 {
			t.Errorf("%q is accepted with user %d, whose traffic would bypass the proxy", text, args.ProxyUID)
		}
		again, err := podplan.ParseInitArgs(args.Args(), io.Discard)
		if diff := cmp.Diff(args, again, same); err != nil || diff != "" {
			t.Errorf("%q reads differently again: %v %s", args.Args(), err, diff)
		}
	})
}

func FuzzParseProxyCommand(f *testing.F) {
	f.Add("--log-level=debug\n--drain-timeout=1m\n--idle-timeout=8h\n--pprof")
	f.Add("wait\n--timeout=3s")
	f.Add("drain\n--delay=0\n--timeout=1ns")
	f.Add("drain\nwait")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := podplan.ParseProxyCommand(strings.Split(text, "\n"), io.Discard)
		if err != nil {
			if c != (podplan.ProxyCommand{}) {
				t.Errorf("%q is refused and read", text)
			}
			return
		}
		var args []string
		commands := 0
		if c.Serve != nil {
			args, commands = c.Serve.Args(), commands+1
		}
		if c.Wait != nil {
			args, commands = c.Wait.Args(), commands+1
		}
		if c.Drain != nil {
			args, commands = c.Drain.Args(), commands+1
		}
		if commands != 1 {
			t.Fatalf("%q is %d commands", text, commands)
		}
		if c.Serve != nil { // not written: manifests never change it
			c.Serve.Directory = api.Directory
		}
		again, err := podplan.ParseProxyCommand(args, io.Discard)
		if diff := cmp.Diff(c, again); err != nil || diff != "" {
			t.Errorf("%q reads differently again: %v %s", args, err, diff)
		}
	})
}
