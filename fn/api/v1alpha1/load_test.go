package v1alpha1_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

const head = "apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\nspec:\n"

func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"nothing":             {"", "functionConfig is missing"},
		"list":                {"[{}]", `functionConfig is "" of ""`},
		"other kind":          {"apiVersion: v1\nkind: Secret", `functionConfig is "Secret"`},
		"other version":       {"apiVersion: meshless.dev/v2\nkind: MutualTLS", "want MutualTLS of meshless.dev/v1alpha1"},
		"unknown field":       {head + "  trustdomain: x", `unknown field "spec.trustdomain"`},
		"unknown deep field":  {head + "  proxy: {resources: {request: {}}}", `unknown field "spec.proxy.resources.request"`},
		"repeated field":      {"apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nspec: {issuance: Auto, issuance: Never}", `duplicate field "spec.issuance"`},
		"wrong type":          {head + "  sealing: {recipients: age1}", "is a string where a"},
		"trust domain":        {head + "  trustDomain: Prod_EXAMPLE!", "spec.trustDomain"},
		"trust domain scheme": {head + "  trustDomain: spiffe://prod.example", `write the name alone, "prod.example"`},
		"cluster domain":      {head + "  clusterDomain: .local", "spec.clusterDomain"},
		"issuance":            {head + "  issuance: Always", `"Always" is not supported; want Auto, Never`},
		"sealing format":      {head + "  sealing: {format: PGP}", `"PGP" is not supported; want Age, SOPS`},
		"identity with SOPS":  {head + "  sealing: {format: SOPS, identitySecret: {name: a}}", "spec.sealing.identitySecret: has no effect with format SOPS"},
		"issuer":              {head + "  certificates: {issuer: Vault}", `"Vault" is not supported; want RollingCA, CertManager`},
		"algorithm":           {head + "  certificates: {keyAlgorithm: DSA}", `"DSA" is not supported; want ECDSA-P256`},
		"renewal loop":        {head + "  certificates: {validity: 10h, renewBefore: 10h}", "every render is due"},
		"short validity":      {head + "  certificates: {validity: 1m}", "spec.certificates.validity"},
		"no duration":         {head + "  certificates: {validity: month}", "spec.certificates.validity is not a duration like 720h"},
		"mode":                {head + "  inbound: {mode: Lax}", `"Lax" is not supported; want Strict, Permissive`},
		"port":                {head + "  inbound: {excludePorts: [0]}", `"0" is not a port`},
		"range":               {head + "  outbound: {excludePorts: [\"90-80\"]}", `"90-80" is not a port`},
		"cidr":                {head + "  outbound: {excludeCIDRs: [10.0.0.1/8]}", "write 10.0.0.0/8"},
		"IPv4 in IPv6":        {head + "  outbound: {excludeCIDRs: [fd00::/8, \"::ffff:10.0.0.0/104\"]}", "spec.outbound.excludeCIDRs[1]: ::ffff:10.0.0.0/104 is of IPv4 addresses in IPv6 form; write it as an IPv4 network, 10.0.0.0/8"},
		"empty cidr":          {head + "  outbound: {excludeCIDRs: [\"\"]}", "spec.outbound.excludeCIDRs[0]: \"invalid Prefix\" is not a network"},
		"uid in quotes":       {head + "  outbound: {excludeUIDs: [1002, \"1001\"]}", "spec.outbound.excludeUIDs[1] is a string where a number belongs: write 1001 without quotes"},
		"uid by name":         {head + "  outbound: {excludeUIDs: [nobody]}", "spec.outbound.excludeUIDs[0] is a string where a number belongs"},
		"switch in quotes":    {head + "  proxy: {fips140: \"true\"}", "spec.proxy.fips140 is a string where true or false belongs: write true without quotes"},
		"number out of range": {head + "  sidecar: {uid: 1.5}", "spec.sidecar.uid is a number 1.5 where a int64 belongs"},
		"interface in":        {head + "  inbound: {excludeInterfaces: [net1, \"net*\"]}", `spec.inbound.excludeInterfaces[1]: "net*" is not the name of an interface`},
		"interface out":       {head + "  outbound: {excludeInterfaces: [eth0]}", "spec.outbound.excludeInterfaces[0]: eth0 joins the pod to the cluster"},
		"root excluded":       {head + "  outbound: {excludeUIDs: [0]}", "spec.outbound.excludeUIDs[0]: 0 is root"},
		"proxy excluded":      {head + "  outbound: {excludeUIDs: [7, 2000]}\n  sidecar: {uid: 2000}", "spec.outbound.excludeUIDs[1]: 2000 is the proxy's user"},
		"uid":                 {head + "  sidecar: {uid: -1}", "spec.sidecar.uid"},
		"sidecar mode":        {head + "  sidecar: {mode: Ambient}", `"Ambient" is not supported; want Native, Container`},
		"class":               {head + "  sidecar: {qosClass: Guaranteed}", `spec.sidecar.qosClass: "Guaranteed" is not supported; want Keep, Ignore`},
		"log level":           {head + "  proxy: {logLevel: trace}", "want debug, info, warn, error"},
		"idle timeout":        {head + "  proxy: {idleTimeout: 30s}", "spec.proxy.idleTimeout: 30s is less than 1m0s"},
		"image":               {head + "  proxy: {image: \"a b\"}", "is not the name of an image"},
		"template without []": {head + "  workloads: {templates: [{group: e.org, kind: X, path: \"spec.jobs[0].template\"}]}", "spec.workloads.templates[0].path: \"spec.jobs[0].template\" is not a path like spec.template or spec.jobs[].template"},
		"template by a dot":   {head + "  workloads: {templates: [{group: e.org, kind: X, path: .spec.template}]}", "is not a path like"},
		"template of a list":  {head + "  workloads: {templates: [{group: e.org, kind: X, path: \"[].template\"}]}", "is not a path like"},
		"template of no kind": {head + "  workloads: {templates: [{path: spec.template}]}", "needs the group and kind"},
		"template of core":    {head + "  workloads: {templates: [{kind: Service, path: spec.template}]}", "a Service of Kubernetes holds no pod template"},
		"empty selector":      {head + "  workloads: {include: [{}]}", "selects nothing in particular"},
		"glob":                {head + "  workloads: {include: [{name: \"[\"}]}", "is not a glob"},
		"rule without from":   {head + "  authorization: {rules: [{to: {name: a}, from: []}]}", "a rule that allows nobody"},
		"rule with both":      {head + "  authorization: {rules: [{to: {name: a}, from: [{name: b, spiffeID: \"spiffe://a/b\"}]}]}", "write two entries"},
		"redirect":            {head + "  redirect: {mode: Never}", `spec.redirect.mode: "Never" is not supported; want Rules, None`},
		"redirect of nobody":  {head + "  redirect: {none: [{}]}", "spec.redirect.none[0]: selects nothing in particular"},
		"redirect to no name": {head + "  redirect: {services: {pg: [5432]}}", `spec.redirect.services[pg]: "pg" is not <service>.<namespace>`},
		"redirect to no port": {head + "  redirect: {services: {pg.data: []}}", "spec.redirect.services[pg.data]: names no port"},
		"pattern":             {head + "  authorization: {rules: [{to: {name: a}, from: [{spiffeID: \"spiffe://*/b\"}]}]}", "the trust domain is fixed"},
		"authorization mode":  {head + "  authorization: {mode: Audit}", `"Audit" is not supported; want Enforce, DryRun`},
		"no boolean":          {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\ndata: {fips140: \"on\"}", "data.fips140: is neither true nor false"},
		"unknown key":         {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\ndata: {recipient: x}", "data.recipient: is unknown; known are authorizationMode, caRecipients"},
		"bad key":             {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\ndata: {validity: x}", "is not a duration like 720h"},
	} {
		t.Run(name, func(t *testing.T) {
			var node *yaml.RNode
			if test.config != "" {
				node = yaml.MustParse(test.config)
			}
			config, err := v1alpha1.Load(node)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v and %v, want an error with %q", config, err, test.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	config, err := v1alpha1.Load(yaml.MustParse(head + "  certificates: {validity: 100h}"))
	if err != nil {
		t.Fatal(err)
	}
	s := config.Spec
	if s.TrustDomain != "cluster.local" || s.Authorization.Mode != v1alpha1.AuthorizationEnforce || s.Issuance != v1alpha1.IssuanceAuto || s.Inbound.Mode != meshmap.Strict || s.Redirect.Mode != v1alpha1.RedirectRules || s.Sidecar.UID != 15000 ||
		s.Certificates.RenewBefore.Duration != 50*time.Hour || s.Proxy.Image != api.ProxyImage || s.Sealing.IdentitySecret.Name != "meshless-identity" {
		t.Errorf("defaults are %+v", s)
	}
}

func TestConfigMap(t *testing.T) {
	config, err := v1alpha1.Load(yaml.MustParse(`
apiVersion: v1
kind: ConfigMap
metadata: {name: function-input}
data: {trustDomain: prod.example, recipients: "age1a, age1b", caRecipients: age1c, validity: 48h, inboundMode: Permissive, redirectMode: None, fips140: "true", fromNetworkPolicies: "true", authorizationMode: DryRun}
`))
	if err != nil {
		t.Fatal(err)
	}
	s := config.Spec
	if s.TrustDomain != "prod.example" || len(s.Sealing.Recipients) != 2 || s.Sealing.Recipients[1] != "age1b" || s.Certificates.CA.Recipients[0] != "age1c" ||
		s.Certificates.Validity.Duration != 48*time.Hour || s.Inbound.Mode != meshmap.Permissive ||
		s.Redirect.Mode != v1alpha1.RedirectNone || !s.Proxy.FIPS140 || !s.Authorization.FromNetworkPolicies || s.Authorization.Mode != v1alpha1.AuthorizationDryRun {
		t.Errorf("read %+v", s)
	}
}

// FuzzLoad: whatever a config holds, it is read or refused, and what is accepted passes validation again.
func FuzzLoad(f *testing.F) {
	f.Add(head + "  trustDomain: a\n  workloads: {include: [{name: a*}]}")
	f.Add("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: f}\ndata: {trustDomain: a}")
	f.Add(head + "  outbound: {excludePorts: [1, \"2-3\"], meshCIDRs: [10.0.0.0/8]}")
	f.Fuzz(func(t *testing.T, text string) {
		node, err := yaml.Parse(text)
		if err != nil {
			return
		}
		if config, err := v1alpha1.Load(node); err == nil {
			if err := config.Validate(); err != nil {
				t.Errorf("accepted, then refused: %v", err)
			}
		}
	})
}

// Every value that cannot be read is named by its field, several at once, and so is every unknown field.
func TestMistakesNameTheirFields(t *testing.T) {
	_, err := v1alpha1.Load(yaml.MustParse(`
apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: m}
spec:
  inbound: {excludePorts: [80, 70000, 1-2-3]}
  outbound: {excludeCIDRs: [10.0.0.0/33, 10.0.0.0/8], meshCIDRs: [foo]}
  proxy: {resources: {limits: {memory: much}}}
`))
	var paths []string
	for _, mistake := range v1alpha1.Mistakes(err) {
		paths = append(paths, mistake.Path)
	}
	want := []string{"spec.inbound.excludePorts[1]", "spec.inbound.excludePorts[2]", "spec.outbound.excludeCIDRs[0]", "spec.outbound.meshCIDRs[0]", "spec.proxy.resources.limits.memory"}
	slices.Sort(paths)
	if !slices.Equal(paths, want) {
		t.Errorf("got %q, want %q\n%v", paths, want, err)
	}
	_, err = v1alpha1.Load(yaml.MustParse("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: m}\nspec: {a: 1, b: 2, sidecar: {uid: 0}}"))
	if got := v1alpha1.Mistakes(err); len(got) != 3 {
		t.Errorf("got %v, want three mistakes", got)
	}
}
