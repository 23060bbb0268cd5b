package meshmap_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/meshmap"
)

const pemText = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

func networks(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// federated is a map with two other trust domains, one of which has networks.
func federated() *meshmap.Map {
	m := mesh()
	m.Federation = []meshmap.Federation{
		{TrustDomain: "other.example", Bundle: pemText + pemText, CIDRs: networks("10.7.0.0/16", "fd07::/16"), Identities: []string{"spiffe://other.example/ns/prod/*/*"}},
		{TrustDomain: "third.example", Bundle: pemText},
	}
	m.Inbound.Policy[0].Rules[0].From = append(m.Inbound.Policy[0].Rules[0].From, "spiffe://third.example/ns/ops/job/*")
	return m
}

func TestFederationRoundTrip(t *testing.T) {
	text, err := federated().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := meshmap.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(federated(), got, addrs); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(text), "- bundle: |\n") {
		t.Errorf("the bundle is not written as a block, which people can read:\n%s", text)
	}
	if f := got.Federated("third.example"); f == nil || f.Bundle != pemText || got.Federated("cluster.local") != nil || got.Federated("x.third.example") != nil {
		t.Error("Federated finds the wrong entry")
	}
	if text, _ := mesh().Marshal(); strings.Contains(string(text), "federation") {
		t.Error("a map without a federation says something of it")
	}
}

func TestFederationRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*meshmap.Map)
		want   string
	}{
		"our own":           {func(m *meshmap.Map) { m.Federation[1].TrustDomain = "cluster.local" }, "federation[1].trustDomain: \"cluster.local\" is our own"},
		"twice":             {func(m *meshmap.Map) { m.Federation[0].TrustDomain = "third.example" }, "federated twice"},
		"no trust domain":   {func(m *meshmap.Map) { m.Federation[1].TrustDomain = "" }, "is not the name"},
		"an ID":             {func(m *meshmap.Map) { m.Federation[1].TrustDomain = "spiffe://third.example" }, "is not the name"},
		"no bundle":         {func(m *meshmap.Map) { m.Federation[1].Bundle = " \n" }, "federation[1].bundle: is missing"},
		"host bits":         {func(m *meshmap.Map) { m.Federation[0].CIDRs = []netip.Prefix{netip.MustParsePrefix("10.7.0.1/16")} }, "write 10.7.0.0/16"},
		"IPv4 in IPv6":      {func(m *meshmap.Map) { m.Federation[0].CIDRs = networks("::ffff:10.7.0.0/112") }, "write it as an IPv4 network, 10.7.0.0/16"},
		"within itself":     {func(m *meshmap.Map) { m.Federation[0].CIDRs = networks("10.7.0.0/16", "10.7.1.0/24") }, "write the wider one"},
		"of two domains":    {func(m *meshmap.Map) { m.Federation[1].CIDRs = networks("10.0.0.0/8") }, "federation[1].cidrs[0]: 10.0.0.0/8 overlaps with"},
		"meshCIDRs":         {func(m *meshmap.Map) { m.Federation[1].CIDRs = networks("10.9.8.0/24") }, "of outbound.meshCIDRs"},
		"wildcard domain":   {func(m *meshmap.Map) { m.Federation[0].Identities = []string{"spiffe://*/x"} }, "the trust domain is fixed"},
		"identity of ours":  {func(m *meshmap.Map) { m.Federation[0].Identities = []string{webID} }, "is not of trust domain"},
		"another's":         {func(m *meshmap.Map) { m.Federation[0].Identities = []string{"spiffe://third.example/x"} }, "is not of trust domain"},
		"without cidrs":     {func(m *meshmap.Map) { m.Federation[1].Identities = []string{"spiffe://third.example/x"} }, "there are none"},
		"rule of nobody":    {func(m *meshmap.Map) { m.Federation = m.Federation[:1] }, "neither ours"},
		"foreign Service":   {func(m *meshmap.Map) { m.Services[0].Identities = []string{"spiffe://other.example/x"} }, "is not a workload of trust domain"},
		"policy of another": {func(m *meshmap.Map) { m.Inbound.Policy[1].Workload = "spiffe://other.example/x" }, "is not a workload of trust domain"},
	} {
		m := federated()
		c.change(m)
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := meshmap.Parse(text); err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	const head = "apiVersion: meshless.dev/v1alpha1\nkind: Mesh\nnamespace: a\npackage: p\ntrustDomain: a\nclusterDomain: cluster.local\noutbound: {unknown: Deny}\ninbound: {mode: Strict, default: Deny}\n"
	for name, text := range map[string]string{"unknown field": "{trustDomain: b, bundle: x, cidr: []}", "no network": "{trustDomain: b, bundle: x, cidrs: ['']}"} {
		if got, err := meshmap.Parse([]byte(head + "federation: [" + text + "]")); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
