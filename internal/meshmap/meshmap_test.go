package meshmap_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

var addrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

const webID = "spiffe://cluster.local/ns/prod/deployment/web"

func mesh() *meshmap.Map {
	return &meshmap.Map{
		APIVersion: api.APIVersion, Kind: "Mesh", TrustDomain: "cluster.local", ClusterDomain: "cluster.local", Namespace: "prod", Package: "p1", Namespaces: []string{"data"}, Outside: []string{"old.prod"}, SharedCA: true, OpenPodPorts: map[string]netset.Ports{"prod": netset.PortsOf(9100)},
		ServicePorts: map[string]netset.Ports{"web.prod": netset.PortsOf(80, 8080), "db.far": netset.PortsOf(5432), "statsd.prod": nil},
		Outbound:     meshmap.Outbound{Unknown: meshmap.Passthrough, MeshCIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}},
		Inbound: meshmap.Inbound{Mode: meshmap.Strict, Default: meshmap.AllowMesh, Policy: []meshmap.Policy{
			{Workload: webID, Rules: []meshmap.Rule{{Ports: netset.PortsOf(80, 81), From: []string{"spiffe://cluster.local/ns/*/job/*"}}}},
			{Workload: webID},
		}},
		Services: []meshmap.Service{{
			Host: "web.prod.svc.cluster.local", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
			Ports: netset.PortsOf(80), Identities: []string{webID}, PlaintextPorts: netset.PortsOf(9090), DirectPorts: netset.PortsOf(8080, 8443),
		}},
		RevokedKeys: []string{strings.Repeat("0f", 32)},
	}
}

func TestMeshRoundTrip(t *testing.T) {
	text, err := mesh().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := meshmap.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mesh(), got, addrs); diff != "" {
		t.Error(diff)
	}
}

func TestMeshRefuses(t *testing.T) {
	for name, change := range map[string]func(*meshmap.Map){
		"version":          func(m *meshmap.Map) { m.APIVersion = "meshless.dev/v2" },
		"kind":             func(m *meshmap.Map) { m.Kind = "Map" },
		"trust domain":     func(m *meshmap.Map) { m.TrustDomain = "" },
		"unknown mode":     func(m *meshmap.Map) { m.Outbound.Unknown = "" },
		"inbound mode":     func(m *meshmap.Map) { m.Inbound.Mode = "Off" },
		"default":          func(m *meshmap.Map) { m.Inbound.Default = "" },
		"no identity":      func(m *meshmap.Map) { m.Services[0].Identities = nil },
		"foreign identity": func(m *meshmap.Map) { m.Services[0].Identities = []string{"spiffe://other/x"} },
		"no SPIFFE ID":     func(m *meshmap.Map) { m.Services[0].Identities = []string{"web"} },
		"trust domain ID":  func(m *meshmap.Map) { m.Services[0].Identities = []string{"spiffe://cluster.local"} },
		"host":             func(m *meshmap.Map) { m.Services[0].Host = "Web.prod.svc.cluster.local" },
		"empty rule":       func(m *meshmap.Map) { m.Inbound.Policy[0].Rules[0].From = nil },
		"pattern":          func(m *meshmap.Map) { m.Inbound.Policy[0].Rules[0].From = []string{"spiffe://*/x"} },
		"bracket pattern":  func(m *meshmap.Map) { m.Inbound.Policy[0].Rules[0].From = []string{"spiffe://cluster.local/[a]"} },
		"revoked":          func(m *meshmap.Map) { m.RevokedKeys = []string{"abc"} },
		"no Service":       func(m *meshmap.Map) { m.ServicePorts = map[string]netset.Ports{"web": netset.PortsOf(80)} },
		"a host":           func(m *meshmap.Map) { m.ServicePorts = map[string]netset.Ports{"web.prod.svc": netset.PortsOf(80)} },
	} {
		m := mesh()
		change(m)
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := meshmap.Parse(text); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	const head = "apiVersion: meshless.dev/v1alpha1\nkind: Mesh\nnamespace: a\npackage: p\ntrustDomain: a\nclusterDomain: cluster.local\noutbound: {unknown: Deny}\ninbound: {mode: Strict, default: Deny}\n"
	if _, err := meshmap.Parse([]byte(head + "services: {prod: {web: deployment/web :80, db: {answers: statefulset/db}}}")); err != nil {
		t.Errorf("the short form: %v", err)
	}
	for name, text := range map[string]string{
		"unknown field": "new: 1", "unknown field of a Service": "services: {prod: {web: {answers: deployment/web, port: 80}}}", "nobody": `services: {prod: {web: ":80"}}`,
		"no kind": "services: {prod: {web: web}}", "bad port": "services: {prod: {web: deployment/web :0}}", "dots": "services: {prod: {web.other: deployment/web}}",
		"direct port": "services: {prod: {web: {answers: deployment/web, directPorts: 0}}}", "port of a Service": "servicePorts: {web.prod: 70000}",
		"path": "services: {prod: {web: deployment/../x}}", "a number": "services: {prod: {web: 1}}",
	} {
		if got, err := meshmap.Parse([]byte(head + text)); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, hosts := range map[string][]string{"elsewhere": {"web.example.com"}, "twice": {"a.b.svc.cluster.local", "a.b.svc.cluster.local"}, "deep": {"a.b.c.svc.cluster.local"}} {
		m := mesh()
		m.Services = nil
		for _, host := range hosts {
			m.Services = append(m.Services, meshmap.Service{Host: host, Identities: []string{webID}})
		}
		if _, err := m.Marshal(); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestMeshOfTenThousandServices(t *testing.T) {
	m := mesh()
	m.Services = nil
	for i := range 10000 {
		name := fmt.Sprintf("recommendation-api-%d", i)
		m.Services = append(m.Services, meshmap.Service{Host: name + ".production.svc.cluster.local", Ports: netset.PortsOf(80),
			Identities: []string{"spiffe://cluster.local/ns/production/deployment/" + name}})
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 1<<20-1<<10 {
		t.Errorf("it is %d bytes", len(text))
	}
	got, err := meshmap.Parse(text)
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
		if got := meshmap.MatchID(pattern, id); got != want {
			t.Errorf("%s: %v", pattern, got)
		}
	}
}

func FuzzParseMesh(f *testing.F) {
	text, err := mesh().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := meshmap.Parse(data)
		if err != nil {
			return
		}
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := meshmap.Parse(text); err != nil {
			t.Errorf("what was accepted is refused when written again: %v", err)
		}
	})
}
