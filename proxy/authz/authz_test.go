package authz_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/proxy/authz"
	"github.com/meshless-dev/meshless/test/proxytest"
)

func TestAuthorize(t *testing.T) {
	local := proxytest.ID("server")
	rules := func(r ...meshmap.Rule) []meshmap.Policy { return []meshmap.Policy{{Workload: local, Rules: r}} }
	from := func(ports string, patterns ...string) meshmap.Rule {
		p, err := netset.ParsePorts(ports)
		if err != nil {
			t.Fatal(err)
		}
		return meshmap.Rule{Ports: p, From: patterns}
	}
	client := proxytest.ID("client")
	const prod = "spiffe://cluster.local/ns/prod/"
	cases := []struct {
		name   string
		byRule meshmap.DefaultPolicy
		policy []meshmap.Policy
		peer   string
		port   uint16
		want   authz.Reason // empty: allowed
	}{
		{"default allows the mesh", meshmap.AllowMesh, nil, client, 80, ""},
		{"default denies", meshmap.DenyDefault, nil, client, 80, authz.NoPolicy},
		{"foreign trust domain", meshmap.AllowMesh, nil, "spiffe://other/ns/prod/deployment/client", 80, authz.ForeignTrustDomain},
		{"foreign trust domain in a rule", meshmap.AllowMesh, rules(from("", "spiffe://other/ns/*/*/*")), "spiffe://other/ns/a/b/c", 80, authz.ForeignTrustDomain},
		{"trust domain itself", meshmap.AllowMesh, nil, "spiffe://cluster.local", 80, authz.ForeignTrustDomain},
		{"rule allows", meshmap.DenyDefault, rules(from("", client)), client, 80, ""},
		{"rule closes despite the default", meshmap.AllowMesh, rules(from("", proxytest.ID("other"))), client, 80, authz.NoRule},
		{"policy without rules closes", meshmap.AllowMesh, rules(), client, 80, authz.NoRule},
		{"port of the rule", meshmap.DenyDefault, rules(from("80,9000-9010", client)), client, 9005, ""},
		{"other port", meshmap.DenyDefault, rules(from("80,9000-9010", client)), client, 81, authz.WrongPort},
		{"another rule has the port", meshmap.DenyDefault, rules(from("80", client), from("81", client)), client, 81, ""},
		{"another peer has the port", meshmap.DenyDefault, rules(from("80", client), from("81", proxytest.ID("other"))), client, 81, authz.WrongPort},
		{"star within a segment", meshmap.DenyDefault, rules(from("", prod+"deployment/cli*")), client, 80, ""},
		{"star does not cross a slash", meshmap.DenyDefault, rules(from("", prod+"*")), client, 80, authz.NoRule},
		{"star is not the other namespace", meshmap.DenyDefault, rules(from("", "spiffe://cluster.local/ns/dev/*/*")), client, 80, authz.NoRule},
		{"case counts", meshmap.DenyDefault, rules(from("", proxytest.ID("Client"))), client, 80, authz.NoRule},
		{"policy of another workload", meshmap.AllowMesh, []meshmap.Policy{{Workload: proxytest.ID("other")}}, client, 80, ""},
		{"policy of another workload, default denies", meshmap.DenyDefault, []meshmap.Policy{{Workload: proxytest.ID("other"),
			Rules: []meshmap.Rule{from("", client)}}}, client, 80, authz.NoPolicy},
		{"policies add up", meshmap.DenyDefault, append(rules(), rules(from("", client))...), client, 80, ""},
		{"unknown default denies", meshmap.DefaultPolicy("Surprise"), nil, client, 80, authz.NoPolicy},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := proxytest.Mesh(func(m *meshmap.Map) { m.Inbound.Default, m.Inbound.Policy = c.byRule, c.policy })
			r := authz.Request{Peer: spiffeid.RequireFromString(c.peer), Local: spiffeid.RequireFromString(local), Port: c.port}
			err := authz.Authorize(r, m)
			if got := reasonOf(err); got != c.want || err != nil && !strings.Contains(err.Error(), c.peer) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestFederated: a peer of a federated trust domain gets in only where a rule names it in the words of its own trust
// domain.
func TestFederated(t *testing.T) {
	local, own := proxytest.ID("server"), proxytest.ID("client")
	const peer, third = "spiffe://other.example/ns/prod/deployment/client", "spiffe://third.example/ns/prod/deployment/client"
	allow := func(ports netset.Ports, patterns ...string) []meshmap.Policy {
		return []meshmap.Policy{{Workload: local, Rules: []meshmap.Rule{{Ports: ports, From: patterns}}}}
	}
	for name, c := range map[string]struct {
		byRule meshmap.DefaultPolicy
		policy []meshmap.Policy
		peer   string
		want   authz.Reason
	}{
		"AllowMesh without a rule":         {meshmap.AllowMesh, nil, peer, authz.ForeignTrustDomain},
		"Deny without a rule":              {meshmap.DenyDefault, nil, peer, authz.ForeignTrustDomain},
		"every workload of our mesh":       {meshmap.AllowMesh, allow(nil, "spiffe://cluster.local/ns/*/*/*"), peer, authz.ForeignTrustDomain},
		"the same path of our mesh":        {meshmap.AllowMesh, allow(nil, own), peer, authz.ForeignTrustDomain},
		"policy without a rule":            {meshmap.AllowMesh, []meshmap.Policy{{Workload: local}}, peer, authz.ForeignTrustDomain},
		"rule of another workload":         {meshmap.AllowMesh, []meshmap.Policy{{Workload: proxytest.ID("other"), Rules: []meshmap.Rule{{From: []string{peer}}}}}, peer, authz.ForeignTrustDomain},
		"named":                            {meshmap.DenyDefault, allow(nil, peer), peer, ""},
		"named by a pattern":               {meshmap.DenyDefault, allow(nil, "spiffe://other.example/ns/prod/*/*"), peer, ""},
		"named, on another port":           {meshmap.AllowMesh, allow(netset.PortsOf(81), peer), peer, authz.WrongPort},
		"another one is named":             {meshmap.AllowMesh, allow(nil, peer+"-2"), peer, authz.ForeignTrustDomain},
		"of no federated domain, named":    {meshmap.AllowMesh, allow(nil, third), third, authz.ForeignTrustDomain},
		"a federated domain itself":        {meshmap.AllowMesh, allow(nil, "spiffe://other.example/*"), "spiffe://other.example", authz.ForeignTrustDomain},
		"ours beside a rule for a foreign": {meshmap.AllowMesh, allow(nil, peer), own, authz.NoRule},
		"dots are no wildcard":             {meshmap.AllowMesh, allow(nil, "spiffe://otherxexample/ns/prod/deployment/client"), peer, authz.ForeignTrustDomain},
	} {
		t.Run(name, func(t *testing.T) {
			m := proxytest.Mesh(func(m *meshmap.Map) {
				m.Inbound.Default, m.Inbound.Policy = c.byRule, c.policy
				m.Federation = []meshmap.Federation{{TrustDomain: "other.example", Bundle: "x"}}
			})
			r := authz.Request{Peer: spiffeid.RequireFromString(c.peer), Local: spiffeid.RequireFromString(local), Port: 80}
			err := authz.Authorize(r, m)
			if got := reasonOf(err); got != c.want {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if denial := new(authz.Denial); errors.As(err, &denial) && denial.Foreign() != (c.peer != own) {
				t.Errorf("Foreign is %t", denial.Foreign())
			}
		})
	}
}

func TestNobodyIsDenied(t *testing.T) {
	if err := authz.Authorize(authz.Request{Port: 80}, proxytest.Mesh()); reasonOf(err) != authz.ForeignTrustDomain {
		t.Errorf("the zero identity: %v", err)
	}
}

// reasonOf is why a request is denied: empty where it is not, and the text of an error that is no denial.
func reasonOf(err error) authz.Reason {
	denial := new(authz.Denial)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &denial):
		return denial.Reason
	}
	return authz.Reason(err.Error())
}
