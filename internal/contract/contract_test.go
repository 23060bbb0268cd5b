package contract_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/contract"
)

var addrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

const webID = "spiffe://cluster.local/ns/prod/deployment/web"

func mesh() *contract.Mesh {
	return &contract.Mesh{
		APIVersion: contract.APIVersion, Kind: "Mesh", TrustDomain: "cluster.local", ClusterDomain: "cluster.local",
		Outbound: contract.Outbound{Unknown: contract.Passthrough, MeshCIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}},
		Inbound: contract.Inbound{Mode: contract.Strict, Default: contract.AllowMesh, Policy: []contract.Policy{
			{Workload: webID, Rules: []contract.Rule{{Ports: contract.PortsOf(80, 81), From: []string{"spiffe://cluster.local/ns/*/job/*"}}}},
			{Workload: webID},
		}},
		Services: []contract.Service{{
			Host: "web.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
			Ports: contract.PortsOf(80), Identities: []string{webID}, PlaintextPorts: contract.PortsOf(9090),
		}},
		RevokedKeys: []string{strings.Repeat("0f", 32)},
	}
}

func TestMeshRoundTrip(t *testing.T) {
	text, err := mesh().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := contract.ParseMesh(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mesh(), got, addrs); diff != "" {
		t.Error(diff)
	}
}

func TestMeshRefuses(t *testing.T) {
	for name, change := range map[string]func(*contract.Mesh){
		"version":          func(m *contract.Mesh) { m.APIVersion = "meshless.dev/v2" },
		"kind":             func(m *contract.Mesh) { m.Kind = "Map" },
		"trust domain":     func(m *contract.Mesh) { m.TrustDomain = "" },
		"unknown mode":     func(m *contract.Mesh) { m.Outbound.Unknown = "" },
		"inbound mode":     func(m *contract.Mesh) { m.Inbound.Mode = "Off" },
		"default":          func(m *contract.Mesh) { m.Inbound.Default = "" },
		"no identity":      func(m *contract.Mesh) { m.Services[0].Identities = nil },
		"foreign identity": func(m *contract.Mesh) { m.Services[0].Identities = []string{"spiffe://other/x"} },
		"no SPIFFE ID":     func(m *contract.Mesh) { m.Services[0].Identities = []string{"web"} },
		"trust domain ID":  func(m *contract.Mesh) { m.Services[0].Identities = []string{"spiffe://cluster.local"} },
		"host":             func(m *contract.Mesh) { m.Services[0].Host = "Web.prod.svc.cluster.local" },
		"empty rule":       func(m *contract.Mesh) { m.Inbound.Policy[0].Rules[0].From = nil },
		"pattern":          func(m *contract.Mesh) { m.Inbound.Policy[0].Rules[0].From = []string{"spiffe://*/x"} },
		"bracket pattern":  func(m *contract.Mesh) { m.Inbound.Policy[0].Rules[0].From = []string{"spiffe://cluster.local/[a]"} },
		"revoked":          func(m *contract.Mesh) { m.RevokedKeys = []string{"abc"} },
	} {
		m := mesh()
		change(m)
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := contract.ParseMesh(text); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	const head = "apiVersion: meshless.dev/v1alpha1\nkind: Mesh\ntrustDomain: a\nclusterDomain: cluster.local\noutbound: {unknown: Deny}\ninbound: {mode: Strict, default: Deny}\n"
	if _, err := contract.ParseMesh([]byte(head + "services: {prod: {web: deployment/web :80, db: {answers: statefulset/db}}}")); err != nil {
		t.Errorf("the short form: %v", err)
	}
	for name, text := range map[string]string{
		"unknown field": "new: 1", "unknown field of a Service": "services: {prod: {web: {answers: deployment/web, port: 80}}}", "nobody": `services: {prod: {web: ":80"}}`,
		"no kind": "services: {prod: {web: web}}", "bad port": "services: {prod: {web: deployment/web :0}}", "dots": "services: {prod: {web.other: deployment/web}}",
		"path": "services: {prod: {web: deployment/../x}}", "a number": "services: {prod: {web: 1}}",
	} {
		if got, err := contract.ParseMesh([]byte(head + text)); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, hosts := range map[string][]string{"elsewhere": {"web.example.com"}, "twice": {"a.b.svc.cluster.local", "a.b.svc.cluster.local"}, "deep": {"a.b.c.svc.cluster.local"}} {
		m := mesh()
		m.Services = nil
		for _, host := range hosts {
			m.Services = append(m.Services, contract.Service{Host: host, Identities: []string{webID}})
		}
		if _, err := m.Marshal(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// The map of 10,000 Services fits into a ConfigMap, which holds 1 MiB.
func TestMeshOfTenThousandServices(t *testing.T) {
	m := mesh()
	m.Services = nil
	for i := range 10000 {
		name := fmt.Sprintf("recommendation-api-%d", i)
		m.Services = append(m.Services, contract.Service{Host: name + ".production.svc.cluster.local", Ports: contract.PortsOf(80),
			Identities: []string{"spiffe://cluster.local/ns/production/deployment/" + name}})
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 1<<20-1<<10 {
		t.Errorf("it is %d bytes", len(text))
	}
	got, err := contract.ParseMesh(text)
	if err != nil || len(got.Services) != 10000 {
		t.Errorf("read %v", err)
	}
}

func TestMatchID(t *testing.T) {
	id := spiffeid.RequireFromString(webID)
	for pattern, want := range map[string]bool{
		webID: true, "spiffe://cluster.local/ns/*/deployment/web": true, "spiffe://cluster.local/ns/prod/*/*": true, "spiffe://cluster.local/ns/prod/deployment/w*": true,
		"spiffe://cluster.local/*": false, "spiffe://cluster.local/ns/prod/deployment/we": false, "spiffe://other/ns/prod/deployment/web": false,
	} {
		if got := contract.MatchID(pattern, id); got != want {
			t.Errorf("%s: %v", pattern, got)
		}
	}
}

func TestWorkload(t *testing.T) {
	w := &contract.Workload{SPIFFEID: webID, PermissivePorts: contract.PortsOf(80), Handlers: map[string]contract.Handler{
		"web/readinessProbe": {HTTPGet: &contract.HTTPGet{Port: 80, Path: "/a?b=<c>", Headers: []contract.HTTPHeader{{Name: "A", Value: "b"}}}, TimeoutSeconds: 1},
		"web/preStop":        {TCPSocket: &contract.TCPSocket{Port: 81}},
	}}
	text, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := contract.ParseWorkload(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]string{
		"empty": ``, "no ID": `{}`, "trust domain": `{"spiffeID":"spiffe://a"}`, "unknown": `{"spiffeID":"spiffe://a/b","x":1}`, "two": string(text) + "{}",
		"no kind":   `{"spiffeID":"spiffe://a/b","handlers":{"a/b":{}}}`,
		"two kinds": `{"spiffeID":"spiffe://a/b","handlers":{"a/b":{"tcpSocket":{"port":1},"grpc":{"port":1}}}}`,
		"port":      `{"spiffeID":"spiffe://a/b","handlers":{"a/b":{"tcpSocket":{"port":0}}}}`,
		"key":       `{"spiffeID":"spiffe://a/b","handlers":{"a":{"tcpSocket":{"port":1}}}}`,
		"scheme":    `{"spiffeID":"spiffe://a/b","handlers":{"a/b":{"httpGet":{"port":1,"scheme":"FTP"}}}}`,
	} {
		if got, err := contract.ParseWorkload([]byte(bad)); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPorts(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "80": "80", "443, 80": "80,443", "80-82,81-90": "80-90", "80,81": "80-81", "1-65535": "1-65535", "22,9000-9010": "22,9000-9010", "65535": "65535",
	} {
		ports, err := contract.ParsePorts(text)
		if err != nil || ports.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, ports, err, want)
		}
	}
	for _, bad := range []string{"0", "65536", "a", "90-80", "80-", "-", "80,,81", "+80", "8 0"} {
		if ports, err := contract.ParsePorts(bad); err == nil {
			t.Errorf("%q is %q", bad, ports)
		}
	}
	ports, err := contract.ParsePorts("22,9000-9010")
	if err != nil || !ports.Contains(9010) || ports.Contains(9011) || ports.Contains(21) {
		t.Error("Contains is wrong")
	}
	if got := contract.IntersectPorts(ports, contract.PortsOf(9005, 22, 23)).String(); got != "22,9005" {
		t.Errorf("the intersection is %s", got)
	}
	if got := contract.UnionPorts(ports, contract.PortsOf(23), nil).String(); got != "22-23,9000-9010" {
		t.Errorf("the union is %s", got)
	}
}

func TestInitArgs(t *testing.T) {
	want := contract.InitArgs{
		ProxyUID: 15000, ExcludeInboundPorts: contract.PortsOf(22), ExcludeOutboundPorts: contract.PortsOf(25),
		ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}, Backend: contract.BackendNFTables,
		ExcludeInboundInterfaces: contract.Interfaces{"docker0", "net1"}, ExcludeOutboundInterfaces: contract.Interfaces{"tun0"}, ExcludeOutboundUIDs: contract.UIDs{999, 1001},
	}
	got, err := contract.ParseInitArgs(want.Args(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, addrs); diff != "" {
		t.Error(diff)
	}
	want.Backend = contract.BackendIPTables
	if got, err := contract.ParseInitArgs(want.Args(), io.Discard); err != nil || got.Backend != contract.BackendIPTables {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{{"--proxy-uid=0"}, {"--proxy-uid=x"}, {"--unknown"}, {"stray"}, {"--exclude-inbound-ports=0"}, {"--exclude-outbound-cidrs=10.0.0.1/8"}, {"--backend=x"}} {
		if _, err := contract.ParseInitArgs(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
	if _, err := contract.ParseInitArgs([]string{"--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestProxyArgs(t *testing.T) {
	want := contract.ProxyArgs{Directory: contract.Directory, LogLevel: "debug", DrainTimeout: 55 * time.Second}
	got, err := contract.ParseProxyArgs(want.Args(), io.Discard)
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{{"--log-level=loud"}, {"--drain-timeout=5"}, {"stray"}} {
		if _, err := contract.ParseProxyArgs(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
}

func TestProxyCommand(t *testing.T) {
	served := contract.ProxyArgs{Directory: contract.Directory, LogLevel: "info", DrainTimeout: contract.DefaultDrainTimeout}
	for _, want := range []contract.ProxyCommand{
		{Serve: &served},
		{Wait: &contract.WaitArgs{Timeout: contract.DefaultWaitTimeout}},
		{Wait: &contract.WaitArgs{Timeout: time.Second}},
		{Drain: &contract.DrainArgs{Delay: contract.DefaultDrainDelay, Timeout: contract.DefaultDrainLimit}},
		{Drain: &contract.DrainArgs{Delay: 0, Timeout: 55 * time.Second}},
	} {
		var args []string
		switch {
		case want.Serve != nil:
			args = want.Serve.Args()
		case want.Wait != nil:
			args = want.Wait.Args()
		default:
			args = want.Drain.Args()
		}
		got, err := contract.ParseProxyCommand(args, io.Discard)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", args, diff)
		}
	}
	for _, bad := range [][]string{{"quit"}, {""}, {"Wait"}, {"wait", "stray"}, {"wait", "--timeout=0s"}, {"wait", "--delay=1s"}, {"drain", "--delay=-1s"}, {"drain", "--timeout=0s"}, {"--log-level=info", "wait"}} {
		if _, err := contract.ParseProxyCommand(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
	if _, err := contract.ParseProxyCommand([]string{"drain", "--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("drain --help: %v", err)
	}
}

func FuzzParseMesh(f *testing.F) {
	text, err := mesh().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := contract.ParseMesh(data)
		if err != nil {
			return
		}
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := contract.ParseMesh(text); err != nil {
			t.Errorf("what was accepted is refused when written again: %v", err)
		}
	})
}

func FuzzParseWorkload(f *testing.F) {
	f.Add([]byte(`{"spiffeID":"spiffe://a/b","permissivePorts":"80-90","handlers":{"a/b":{"httpGet":{"port":1,"path":"/x"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := contract.ParseWorkload(data)
		if err != nil {
			return
		}
		text, err := w.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := contract.ParseWorkload(text); err != nil {
			t.Errorf("what was accepted is refused when written again: %v", err)
		}
	})
}

func FuzzParsePorts(f *testing.F) {
	f.Add("80,9000-9010")
	f.Fuzz(func(t *testing.T, text string) {
		ports, err := contract.ParsePorts(text)
		if err != nil {
			return
		}
		if again, err := contract.ParsePorts(ports.String()); err != nil || again.String() != ports.String() {
			t.Errorf("%q reads as %q and again as %q, %v", text, ports, again, err)
		}
	})
}
