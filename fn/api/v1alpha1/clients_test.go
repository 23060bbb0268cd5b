package v1alpha1_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// TestClientCIDRs: the range is the config's, or no network that the config names elsewhere, or an error.
func TestClientCIDRs(t *testing.T) {
	for name, test := range map[string]struct{ spec, want, fails string }{
		"nothing is said":              {"{}", "", ""},
		"said":                         {"{inbound: {clientCIDRs: [100.64.0.0/16, 'fd12::/64']}}", "100.64.0.0/16,fd12::/64", ""},
		"IPv6 alone":                   {"{inbound: {clientCIDRs: ['fd12::/64']}}", "fd12::/64", ""},
		"the cluster has the default":  {"{outbound: {clusterCIDRs: [198.18.0.0/16]}}", "240.240.0.0/16", ""},
		"a federated one has it":       {"{outbound: {meshCIDRs: [198.18.0.0/16], excludeCIDRs: [240.0.0.0/8]}}", "192.0.2.0/24", ""},
		"everything is left out":       {"{outbound: {excludeCIDRs: [0.0.0.0/0]}}", "", ""},
		"a network of the mesh":        {"{inbound: {clientCIDRs: [10.0.0.0/8]}, outbound: {meshCIDRs: [10.96.0.0/12]}}", "", "there is 10.96.0.0/12"},
		"the IPv6 default is the mesh": {"{outbound: {meshCIDRs: ['fd6d:6573:686c::/48']}}", "", "spec.inbound.clientCIDRs"},
		"two":                          {"{inbound: {clientCIDRs: [100.64.0.0/16, 100.65.0.0/16]}}", "", "one network of each"},
		"too small":                    {"{inbound: {clientCIDRs: [100.64.0.0/25]}}", "", "/8 to /24"},
		"loopback":                     {"{inbound: {clientCIDRs: [127.6.0.0/16]}}", "", "no client may have"},
		"host bits":                    {"{inbound: {clientCIDRs: [100.64.0.1/16]}}", "", "100.64.0.1/16"},
	} {
		config, err := v1alpha1.Load(yaml.MustParse("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: m}\nspec: " + test.spec))
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), "spec.inbound.clientCIDRs") || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("%s: got error %v, want one of the field that says %q", name, err, test.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := config.Spec.ClientCIDRs(); got.String() != test.want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, test.want)
		}
	}
}
