package contract_test

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/contract"
)

// same compares what two readings have made of one thing: an empty list, and none, say the same.
var same = cmp.Options{addrs, cmpopts.EquateEmpty()}

// sortedServices puts the Services into the order in which they are written.
func sortedServices(m *contract.Mesh) *contract.Mesh {
	slices.SortFunc(m.Services, func(a, b contract.Service) int { return strings.Compare(a.Host, b.Host) })
	return m
}

// FuzzMeshEqual: a map that was read, written and read again is the same map, not only one that is accepted. A Service or a revoked key that got
// lost on the way would be plaintext, or trust, that nobody asked for.
func FuzzMeshEqual(f *testing.F) {
	text, err := mesh().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	const head = "apiVersion: meshless.dev/v1alpha1\nkind: Mesh\ntrustDomain: a\nclusterDomain: cluster.local\noutbound: {unknown: Deny}\ninbound: {mode: Strict, default: Deny}\n"
	f.Add(text)
	f.Add([]byte(head + "services: {prod: {web: deployment/web :80, db: {answers: statefulset/db, clusterIPs: [10.96.0.9, 'fd00::9']}}}"))
	f.Add([]byte(head + "services: {prod: {web: 'spiffe://a/ns/other/deployment/web deployment/web :80,443 :81', db: {answers: statefulset/db, plaintextPorts: 1-9}}}"))
	f.Add([]byte(head + "services: {prod: {web: 'spiffe://a/ns/prod/spiffe:/x deployment/web'}}"))
	f.Add([]byte(head + "federation: [{trustDomain: b, bundle: \"x\\n\", cidrs: [10.7.0.0/16, 'fd07::/16'], identities: ['spiffe://b/*']}, {trustDomain: c, bundle: ' y'}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := contract.ParseMesh(data)
		if err != nil {
			return
		}
		text, err := m.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := contract.ParseMesh(text)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(sortedServices(m), sortedServices(again), same); diff != "" {
			t.Errorf("reading again differs: %s\n%s", diff, text)
		}
	})
}

// FuzzWorkloadEqual is the same for workload.json: the annotation is what un-injection and the proxy both read.
func FuzzWorkloadEqual(f *testing.F) {
	f.Add([]byte(`{"spiffeID":"spiffe://a/b","permissivePorts":"80-90,100","handlers":{"a/b":{"httpGet":{"port":1,"path":"/<x>?&","scheme":"HTTPS","headers":[{"name":"A","value":"\u2028"}]}}}}`))
	f.Add([]byte(`{"spiffeID":"spiffe://a/b","proxyProtocolPorts":"5432","handlers":{"a/b":{"grpc":{"port":1,"service":"s"},"timeoutSeconds":3},"c/d":{"tcpSocket":{"port":9}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := contract.ParseWorkload(data)
		if err != nil {
			return
		}
		text, err := w.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := contract.ParseWorkload(text)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(w, again, same); diff != "" {
			t.Errorf("reading again differs: %s\n%s", diff, text)
		}
	})
}

// FuzzPortsMean: the set that was read contains a port exactly if a part of the text names it.
func FuzzPortsMean(f *testing.F) {
	f.Add("80,9000-9010", uint16(9005))
	f.Add(" 1-65535 ,7", uint16(65535))
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		ports, err := contract.ParsePorts(text)
		if err != nil {
			return
		}
		if port == 0 && ports.Contains(0) {
			t.Errorf("%q holds port 0", text)
		}
		named := slices.ContainsFunc(strings.Split(text, ","), func(part string) bool {
			one, err := contract.ParsePorts(part)
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

// FuzzParsePrefixes: what is accepted are networks that a packet can match, each in its one spelling and once, and none that was not written.
func FuzzParsePrefixes(f *testing.F) {
	f.Add("10.1.0.0/16,fd00::/8")
	f.Add("0.0.0.0/0, ::/0,")
	f.Add("::ffff:10.0.0.0/104")
	f.Add("fe80::%eth0/64")
	f.Fuzz(func(t *testing.T, text string) {
		prefixes, err := contract.ParsePrefixes(text)
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
		var parts []string
		for _, p := range prefixes {
			if !p.IsValid() || p != p.Masked() || p.Addr().Zone() != "" || p.Addr().Is4In6() || !written[p.String()] {
				t.Errorf("%q gives %v", text, p)
			}
			parts = append(parts, p.String())
		}
		again, err := contract.ParsePrefixes(strings.Join(parts, ","))
		if diff := cmp.Diff(prefixes, again, same); err != nil || diff != "" {
			t.Errorf("%q reads differently again: %v %s", text, err, diff)
		}
	})
}

// FuzzParseInitArgs: a command line that is accepted, written and read again is the same. One argument per line.
func FuzzParseInitArgs(f *testing.F) {
	f.Add(strings.Join(contract.InitArgs{ProxyUID: 15000, ExcludeInboundPorts: contract.PortsOf(22), ExcludeOutboundPorts: contract.PortsOf(25, 26),
		ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Backend: contract.BackendNFTables}.Args(), "\n"))
	f.Add("--proxy-uid\n1\n-exclude-inbound-ports=1-5,3-9")
	f.Add("--help")
	f.Add("--\nstray")
	f.Fuzz(func(t *testing.T, text string) {
		args, err := contract.ParseInitArgs(strings.Split(text, "\n"), io.Discard)
		if err != nil {
			if !errors.Is(err, flag.ErrHelp) && err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		if args.ProxyUID < 1 {
			t.Errorf("%q is accepted with user %d, whose traffic would bypass the proxy", text, args.ProxyUID)
		}
		again, err := contract.ParseInitArgs(args.Args(), io.Discard)
		if diff := cmp.Diff(args, again, same); err != nil || diff != "" {
			t.Errorf("%q reads differently again: %v %s", args.Args(), err, diff)
		}
	})
}

// FuzzParseProxyCommand: exactly one command comes of an accepted line, and it says the same when it is written and read again.
func FuzzParseProxyCommand(f *testing.F) {
	f.Add("--log-level=debug\n--drain-timeout=1m\n--pprof")
	f.Add("wait\n--timeout=3s")
	f.Add("drain\n--delay=0\n--timeout=1ns")
	f.Add("drain\nwait")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := contract.ParseProxyCommand(strings.Split(text, "\n"), io.Discard)
		if err != nil {
			if c != (contract.ProxyCommand{}) {
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
			c.Serve.Directory = contract.Directory
		}
		again, err := contract.ParseProxyCommand(args, io.Discard)
		if diff := cmp.Diff(c, again); err != nil || diff != "" {
			t.Errorf("%q reads differently again: %v %s", args, err, diff)
		}
	})
}
