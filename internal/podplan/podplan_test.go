package podplan_test

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

const webID = "spiffe://cluster.local/ns/prod/deployment/web"

func TestWorkload(t *testing.T) {
	w := &podplan.Workload{SPIFFEID: webID, PermissivePorts: netset.PortsOf(80), TLSPassthroughPorts: netset.PortsOf(8443), StrictPorts: netset.PortsOf(5432), Handlers: map[string]podplan.Handler{
		"web/readinessProbe": {HTTPGet: &podplan.HTTPGet{Port: 80, Path: "/a?b=<c>", Headers: []podplan.HTTPHeader{{Name: "A", Value: "b"}}}, TimeoutSeconds: 1},
		"web/preStop":        {TCPSocket: &podplan.TCPSocket{Port: 81}},
	}}
	text, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := podplan.ParseWorkload(text)
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
		if got, err := podplan.ParseWorkload([]byte(bad)); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestInitArgs(t *testing.T) {
	want := podplan.InitArgs{
		ProxyUID: 15000, ExcludeInboundPorts: netset.PortsOf(22), ExcludeOutboundPorts: netset.PortsOf(25),
		ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}, Backend: podplan.BackendNFTables,
		ExcludeInboundInterfaces: netset.Interfaces{"docker0", "net1"}, ExcludeOutboundInterfaces: netset.Interfaces{"tun0"}, ExcludeOutboundUIDs: netset.UIDs{999, 1001},
		ClientCIDRs: clientaddr.Ranges{V4: netip.MustParsePrefix("100.64.0.0/16")}, TransparentPorts: netset.Ports{},
	}
	got, err := podplan.ParseInitArgs(want.Args(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	transparent := podplan.InitArgs{ProxyUID: 7, TransparentPorts: netset.PortsOf(6379)}
	if got, err := podplan.ParseInitArgs(transparent.Args(), io.Discard); err != nil || got.TransparentPorts.String() != "6379" {
		t.Errorf("%+v, %v", got, err)
	}
	want.Backend = podplan.BackendIPTables
	if got, err := podplan.ParseInitArgs(want.Args(), io.Discard); err != nil || got.Backend != podplan.BackendIPTables {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{{"--proxy-uid=0"}, {"--proxy-uid=x"}, {"--unknown"}, {"stray"}, {"--exclude-inbound-ports=0"}, {"--exclude-outbound-cidrs=10.0.0.1/8"}, {"--backend=x"},
		{"--client-cidrs=127.0.0.0/8"}, {"--transparent-ports=80", "--exclude-inbound-interfaces=net1"}, {"--client-cidrs=10.0.0.0/16,10.1.0.0/16"}} {
		if _, err := podplan.ParseInitArgs(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
	if _, err := podplan.ParseInitArgs([]string{"--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

func TestProxyArgs(t *testing.T) {
	want := podplan.ProxyArgs{Directory: api.Directory, LogLevel: "debug", DrainTimeout: 55 * time.Second, IdleTimeout: 8 * time.Hour, ClientCIDRs: clientaddr.Default,
		Records: podplan.RecordsStandard}
	got, err := podplan.ParseProxyArgs(want.Args(), io.Discard)
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{{"--log-level=loud"}, {"--drain-timeout=5"}, {"--idle-timeout=-1s"}, {"--client-cidrs=fd00::/48"}, {"--records=Go"}, {"stray"}} {
		if _, err := podplan.ParseProxyArgs(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
}

func TestProxyCommand(t *testing.T) {
	served := podplan.ProxyArgs{Directory: api.Directory, LogLevel: "info", DrainTimeout: podplan.DefaultDrainTimeout, Records: podplan.RecordsOwn}
	for _, want := range []podplan.ProxyCommand{
		{Serve: &served},
		{Wait: &podplan.WaitArgs{Timeout: podplan.DefaultWaitTimeout}},
		{Wait: &podplan.WaitArgs{Timeout: time.Second}},
		{Drain: &podplan.DrainArgs{Delay: podplan.DefaultDrainDelay, Timeout: podplan.DefaultDrainLimit}},
		{Drain: &podplan.DrainArgs{Delay: 0, Timeout: 55 * time.Second}},
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
		got, err := podplan.ParseProxyCommand(args, io.Discard)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", args, diff)
		}
	}
	for _, bad := range [][]string{{"quit"}, {""}, {"Wait"}, {"wait", "stray"}, {"wait", "--timeout=0s"}, {"wait", "--delay=1s"}, {"drain", "--delay=-1s"}, {"drain", "--timeout=0s"}, {"--log-level=info", "wait"}} {
		if _, err := podplan.ParseProxyCommand(bad, io.Discard); err == nil {
			t.Errorf("%v: accepted", bad)
		}
	}
	if _, err := podplan.ParseProxyCommand([]string{"drain", "--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("drain --help: %v", err)
	}
}

func FuzzParseWorkload(f *testing.F) {
	f.Add([]byte(`{"spiffeID":"spiffe://a/b","permissivePorts":"80-90","handlers":{"a/b":{"httpGet":{"port":1,"path":"/x"}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := podplan.ParseWorkload(data)
		if err != nil {
			return
		}
		text, err := w.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := podplan.ParseWorkload(text); err != nil {
			t.Errorf("what was accepted is refused when written again: %v", err)
		}
	})
}
