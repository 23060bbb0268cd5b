package policy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	kyaml "sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// policyConfig is a config that reads NetworkPolicies; more is what else its authorization says.
func policyConfig(t testing.TB, more string) v1alpha1.Spec {
	t.Helper()
	config, err := v1alpha1.Load(yaml.MustParse("apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nspec:\n  authorization: {fromNetworkPolicies: true" + more + "}"))
	if err != nil {
		t.Fatal(err)
	}
	return config.Spec
}

// meshes are the mesh maps of the manifests, and what was said.
func meshes(t testing.TB, manifests string, spec v1alpha1.Spec) (map[string]*meshmap.Map, string) {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(manifests), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	r := &report.Report{}
	m := manifest.Build(items, spec, r)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	found := m.Meshes(policy.Compile(m, r), r)
	for _, mesh := range found { // the proxy must be able to read it
		text, err := mesh.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := meshmap.Parse(text); err != nil {
			t.Fatal(err)
		}
	}
	var said strings.Builder
	if err := r.WriteText(&said); err != nil {
		t.Fatal(err)
	}
	return found, said.String()
}

// allowed decides as the proxy does (proxy/authz): a workload with a policy is closed to everyone whom no rule allows.
func allowed(mesh *meshmap.Map, peer, local string, port uint16) bool {
	from := spiffeid.RequireFromString("spiffe://cluster.local/ns/" + peer)
	has := false
	for _, p := range mesh.Inbound.Policy {
		if p.Workload != "spiffe://cluster.local/ns/"+local {
			continue
		}
		has = true
		for _, rule := range p.Rules {
			if (len(rule.Ports) == 0 || rule.Ports.Contains(port)) && slices.ContainsFunc(rule.From, func(pattern string) bool { return meshmap.MatchID(pattern, from) }) {
				return true
			}
		}
	}
	return !has && mesh.Inbound.Default == meshmap.AllowMesh
}

func deployment(namespace, name, labels, annotations string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s, namespace: %s}
spec: {template: {metadata: {labels: {%s}, annotations: {%s}}, spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]}}}
---`, name, namespace, labels, annotations)
}

func networkPolicy(namespace, name, spec string) string {
	return fmt.Sprintf("\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\nspec: %s\n---", name, namespace, spec)
}

// pods are what the table's policies are about: a and b in prod, which has a Namespace object, c in ops, which has one,
// and d in lab, which has none.
var pods = "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {team: red}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ops, labels: {team: blue}}\n---" +
	deployment("prod", "a", "app: a, tier: front", "") + deployment("prod", "b", "app: b", "") + deployment("ops", "c", "app: c", "") + deployment("lab", "d", "app: d", "") +
	"\napiVersion: batch/v1\nkind: Job\nmetadata: {name: j, namespace: prod}\nspec: {template: {metadata: {labels: {app: j}}, spec: {containers: [{name: c, image: i}]}}}\n---" +
	"\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s, namespace: prod}\nspec: {template: {metadata: {labels: {app: s}}, spec: {containers: [{name: c, image: i}]}}}\n---" +
	deployment("prod", "out", "app: out", "meshless.dev/inject: disabled")

const (
	podA, podB, podC, podD = "prod/deployment/a", "prod/deployment/b", "ops/deployment/c", "lab/deployment/d"
	job, set               = "prod/job/j", "prod/statefulset/s"
	elsewhere              = "far/deployment/x" // in another package
)

var everyone = []string{podA, podB, podC, podD, job, set, elsewhere}

// Each shape of a NetworkPolicy lets in whom the documentation of Kubernetes says, on port 80 of a, and a warning names
// what no identity can mean.
func TestNetworkPolicy(t *testing.T) {
	for name, test := range map[string]struct {
		spec string
		want []string // who may connect to port 80 of a
		warn string
	}{
		"selects another":          {"{podSelector: {matchLabels: {app: b}}}", everyone, ""},
		"selects all":              {"{podSelector: {}}", nil, ""},
		"no selector":              {"{ingress: []}", nil, ""},
		"no spec":                  {"null", nil, ""},
		"by expression":            {"{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [b]}, {key: tier, operator: Exists}]}}", nil, ""},
		"by expression, not":       {"{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}", everyone, ""},
		"egress only":              {"{podSelector: {}, policyTypes: [Egress], egress: []}", everyone, "holds no NetworkPolicy for ingress"},
		"egress by default":        {"{podSelector: {}, egress: []}", nil, ""},
		"both types":               {"{podSelector: {}, policyTypes: [Egress, Ingress]}", nil, ""},
		"everyone":                 {"{podSelector: {}, ingress: [{}]}", everyone, ""},
		"everyone, empty from":     {"{podSelector: {}, ingress: [{from: []}]}", everyone, ""},
		"pods":                     {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}", []string{podB}, ""},
		"pods are of the policy's": {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}", nil, "selects no workload of the mesh"},
		"every pod here":           {"{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}", []string{podA, podB, job, set}, ""},
		"namespace by label":       {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}", []string{podC}, `lets nobody of namespace lab in`},
		"namespace by name":        {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lab}}}]}]}", []string{podD}, ""},
		"namespaces by name":       {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [lab, far]}]}}]}]}", []string{podD, elsewhere}, ""},
		"no such name":             {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [\"\", A_b]}]}}]}]}", nil, "selects no workload of the mesh"},
		"name and label":           {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: far, team: red}}}]}]}", nil, `lets nobody of namespace far in`},
		"name and other label":     {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops, team: red}}}]}]}", nil, "selects no workload of the mesh"},
		"every namespace":          {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}", everyone, ""},
		"named at all":             {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: Exists}]}}]}]}", everyone, ""},
		"every pod anywhere":       {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {}}]}]}", everyone, ""},
		"but one namespace":        {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [prod]}]}}]}]}", []string{podC, podD}, ""},
		"pods anywhere":            {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: d}}}]}]}", []string{podD}, ""},
		"pods of a namespace":      {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: c}}}]}]}", []string{podC}, ""},
		"pods of no namespace":     {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: c}}}]}]}", nil, "selects no workload of the mesh"},
		"pods far away":            {"{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: far}}, podSelector: {matchLabels: {app: x}}}]}]}", nil, "lets nobody of namespace far in"},
		"two peers":                {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ops}}}]}]}", []string{podB, podC}, ""},
		"two rules":                {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}, {from: [{podSelector: {matchLabels: {app: j}}}]}]}", []string{podB, job}, ""},
		"an address":               {"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]}", nil, "the ipBlock 0.0.0.0/0 is an address"},
		"an address and pods":      {"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {matchLabels: {app: b}}}]}]}", []string{podB}, "the ipBlock 10.0.0.0/8 is an address"},
		"out of the mesh":          {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: out}}}]}]}", nil, "selects no workload of the mesh"},
		"a Job by its name":        {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {job-name: j}}}]}]}", []string{job}, ""},
		"one pod of a set":         {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: s-0}}}]}]}", nil, "does not let statefulset prod/s in"},
		"all but one of a set":     {"{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: apps.kubernetes.io/pod-index, operator: NotIn, values: [\"0\"]}, {key: app, operator: In, values: [s]}]}}]}]}", nil, "does not let statefulset prod/s in"},
		"isolates some pods":       {"{podSelector: {matchLabels: {pod-template-hash: abc, app: a}}, ingress: [{}]}", nil, "selects pods of deployment prod/a by a label"},
		"port":                     {"{podSelector: {}, ingress: [{ports: [{port: 80}]}]}", everyone, ""},
		"another port":             {"{podSelector: {}, ingress: [{ports: [{port: 81}]}]}", nil, ""},
		"range":                    {"{podSelector: {}, ingress: [{ports: [{port: 79, endPort: 80}]}]}", everyone, ""},
		"range beside it":          {"{podSelector: {}, ingress: [{ports: [{port: 81, endPort: 90}]}]}", nil, ""},
		"named port":               {"{podSelector: {}, ingress: [{ports: [{port: http, protocol: TCP}]}]}", everyone, ""},
		"name of an UDP port":      {"{podSelector: {}, ingress: [{ports: [{port: dns}]}]}", nil, `has a TCP port named "dns"`},
		"number as a name":         {"{podSelector: {}, ingress: [{ports: [{port: \"80\"}]}]}", nil, `has a TCP port named "80"`},
		"UDP alone":                {"{podSelector: {}, ingress: [{ports: [{port: 80, protocol: UDP}, {protocol: SCTP}, {port: dns, protocol: UDP}]}]}", nil, ""},
		"UDP and TCP":              {"{podSelector: {}, ingress: [{ports: [{protocol: UDP}, {protocol: TCP}]}]}", everyone, ""},
		"no ports":                 {"{podSelector: {}, ingress: [{ports: []}]}", everyone, ""},
		"port and pods":            {"{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: 81}]}, {from: [{podSelector: {matchLabels: {app: j}}}], ports: [{port: 80}]}]}", []string{job}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, said := meshes(t, pods+networkPolicy("prod", "p", test.spec), policyConfig(t, ""))
			for _, peer := range everyone {
				if got, want := allowed(found["prod"], peer, podA, 80), slices.Contains(test.want, peer); got != want {
					t.Errorf("%s: got %v, want %v", peer, got, want)
				}
			}
			if test.warn == "" && said != "" || !strings.Contains(said, test.warn) {
				t.Errorf("said %q, want %q", said, test.warn)
			}
		})
	}
}

// Policies add up, with each other and with the rules of the config; a policy isolates its own namespace alone; and in
// the config's default nothing is read.
func TestNetworkPoliciesAddUp(t *testing.T) {
	deny, fromB := networkPolicy("prod", "deny", "{podSelector: {}}"), networkPolicy("prod", "b", "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}")
	for name, test := range map[string]struct {
		manifests, config string
		want              []string
	}{
		"deny and allow":       {deny + fromB, "", []string{podB}},
		"allow and deny":       {fromB + deny, "", []string{podB}},
		"two allow":            {fromB + networkPolicy("prod", "c", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: c}}}]}]}"), "", []string{podB, podC}},
		"a rule and a policy":  {fromB, ", rules: [{to: {name: a}, from: [{namespace: lab, name: d}]}]", []string{podB, podD}},
		"a rule and a denial":  {deny, ", rules: [{to: {name: a}, from: [{namespace: lab, name: d}]}]", []string{podD}},
		"Deny by default":      {fromB, ", default: Deny", []string{podB}},
		"Deny, and none":       {"", ", default: Deny", nil},
		"of another namespace": {networkPolicy("ops", "deny", "{podSelector: {}}"), "", everyone},
	} {
		t.Run(name, func(t *testing.T) {
			found, _ := meshes(t, pods+test.manifests, policyConfig(t, test.config))
			for _, peer := range everyone {
				if got, want := allowed(found["prod"], peer, podA, 80), slices.Contains(test.want, peer); got != want {
					t.Errorf("%s: got %v, want %v", peer, got, want)
				}
			}
		})
	}
	spec := policyConfig(t, "")
	spec.Authorization.FromNetworkPolicies = false
	if found, said := meshes(t, pods+deny, spec); !allowed(found["prod"], podB, podA, 80) || said != "" {
		t.Errorf("a NetworkPolicy has an effect that nobody asked for, or a message: %q", said)
	}
}

// The order of the input shows nowhere, and what is not ours is not warned of.
func TestNetworkPolicyOrder(t *testing.T) {
	one := networkPolicy("prod", "one", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {matchLabels: {app: b}}}]}]}")
	two := networkPolicy("prod", "two", "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}")
	outside := networkPolicy("prod", "outside", "{podSelector: {matchLabels: {app: out}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}")
	first, said := meshes(t, pods+one+two+outside, policyConfig(t, ""))
	second, again := meshes(t, pods+outside+two+one, policyConfig(t, ""))
	a, errA := first["prod"].Marshal()
	b, errB := second["prod"].Marshal()
	if errA != nil || errB != nil || string(a) != string(b) || said != again {
		t.Errorf("the order shows (%v, %v):\n%s\n%s\n%s\n%s", errA, errB, a, b, said, again)
	}
	if strings.Count(said, "warning:") != 1 || strings.Contains(said, "outside") {
		t.Errorf("said %q", said)
	}
}

// oracle decides as the documentation of Kubernetes words it: pod by pod, with labels that are all known.
func oracle(policies []networkingv1.NetworkPolicy, spaces map[string]labels.Set, peer, local pod, port uint16) bool {
	matches := func(s *metav1.LabelSelector, set labels.Set) bool {
		selector, err := metav1.LabelSelectorAsSelector(s)
		return err == nil && selector.Matches(set)
	}
	from := func(p networkingv1.NetworkPolicyPeer) bool {
		inNamespace := peer.namespace == local.namespace
		if p.NamespaceSelector != nil {
			inNamespace = matches(p.NamespaceSelector, spaces[peer.namespace])
		}
		return p.IPBlock == nil && inNamespace && (p.PodSelector == nil || matches(p.PodSelector, peer.labels))
	}
	onPort := func(p networkingv1.NetworkPolicyPort) bool {
		switch {
		case p.Protocol != nil && *p.Protocol != "TCP":
			return false
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			return p.Port.StrVal == "http" && port == 80
		case p.EndPort != nil:
			return p.Port.IntVal <= int32(port) && int32(port) <= *p.EndPort
		}
		return p.Port.IntVal == int32(port)
	}
	isolated := false
	for _, np := range policies {
		if np.Namespace != local.namespace || !matches(&np.Spec.PodSelector, local.labels) {
			continue
		}
		if len(np.Spec.PolicyTypes) > 0 && !slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
			continue
		}
		isolated = true
		for _, rule := range np.Spec.Ingress {
			if (len(rule.From) == 0 || slices.ContainsFunc(rule.From, from)) && (len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, onPort)) {
				return true
			}
		}
	}
	return !isolated
}

type pod struct {
	namespace, name string
	labels          labels.Set
}

// Whatever policies there are, where every label is known the mesh map decides as the NetworkPolicies do.
func TestNetworkPolicyAgreesWithOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) // the same at every run
	pick := func(options ...string) string { return options[random.IntN(len(options))] }
	selector := func(keys ...string) string {
		key := pick(keys...)
		value := map[string][]string{"app": {"a", "b"}, "tier": {"low", "high"}, "team": {"red", "blue"}, "kubernetes.io/metadata.name": {"n0", "n1", "n2"}}[key]
		return pick("{}", fmt.Sprintf("{matchLabels: {%s: %s}}", key, pick(value...)),
			fmt.Sprintf("{matchExpressions: [{key: %s, operator: %s, values: [%s, %s]}]}", key, pick("In", "NotIn"), pick(value...), pick(value...)),
			fmt.Sprintf("{matchExpressions: [{key: %s, operator: %s}]}", key, pick("Exists", "DoesNotExist")))
	}
	podSelector, spaceSelector := func() string { return selector("app", "tier") }, func() string { return selector("team", "kubernetes.io/metadata.name") }
	list := func(most int, entry func() string) string {
		var entries []string
		for range random.IntN(most + 1) {
			entries = append(entries, entry())
		}
		return "[" + strings.Join(entries, ", ") + "]"
	}
	peer := func() string {
		return pick("{podSelector: "+podSelector()+"}", "{namespaceSelector: "+spaceSelector()+"}", "{namespaceSelector: "+spaceSelector()+", podSelector: "+podSelector()+"}", "{ipBlock: {cidr: 10.0.0.0/8}}")
	}
	port := func() string {
		return pick("{port: 80}", "{port: 443}", "{port: 79, endPort: 81}", "{port: http}", "{port: none}", "{protocol: TCP}", "{protocol: UDP}", "{port: 80, protocol: UDP}")
	}
	rule := func() string { return "{from: " + list(2, peer) + ", ports: " + list(2, port) + "}" }
	decided := map[bool]int{}
	for range 300 {
		manifests := ""
		var all []pod
		spaces := map[string]labels.Set{}
		for n := range 3 {
			namespace := fmt.Sprintf("n%d", n)
			team := pick("red", "blue")
			spaces[namespace] = labels.Set{"team": team, "kubernetes.io/metadata.name": namespace}
			manifests += fmt.Sprintf("\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {team: %s}}\n---", namespace, team)
			for i := range 2 {
				p := pod{namespace, fmt.Sprintf("w%d", i), labels.Set{"app": pick("a", "b")}}
				text := "app: " + p.labels["app"]
				if random.IntN(2) == 0 {
					p.labels["tier"] = pick("low", "high")
					text += ", tier: " + p.labels["tier"]
				}
				all = append(all, p)
				manifests += deployment(namespace, p.name, text, "")
			}
		}
		var policies []networkingv1.NetworkPolicy
		for i := range 1 + random.IntN(3) {
			text := networkPolicy(pick("n0", "n1"), fmt.Sprintf("p%d", i), "{podSelector: "+podSelector()+", ingress: "+list(2, rule)+pick("", "", ", policyTypes: [Ingress]", ", policyTypes: [Egress]")+"}")
			var np networkingv1.NetworkPolicy
			if err := kyaml.UnmarshalStrict([]byte(strings.TrimSuffix(text, "---")), &np); err != nil {
				t.Fatalf("%v:\n%s", err, text)
			}
			policies = append(policies, np)
			manifests += text
		}
		found, _ := meshes(t, manifests, policyConfig(t, ""))
		for _, local := range all {
			for _, from := range all {
				for _, number := range []uint16{80, 443} {
					want := oracle(policies, spaces, from, local, number)
					decided[want]++
					if got := allowed(found[local.namespace], from.namespace+"/deployment/"+from.name, local.namespace+"/deployment/"+local.name, number); got != want {
						t.Fatalf("%s/%s to %s/%s port %d: got %v, want %v by\n%s", from.namespace, from.name, local.namespace, local.name, number, got, want, manifests)
					}
				}
			}
		}
	}
	if decided[true] < 1000 || decided[false] < 1000 {
		t.Errorf("the policies decide too little: %v", decided)
	}
}

// TestRuntimeLabels: a label that a controller writes is not what the template says.
func TestRuntimeLabels(t *testing.T) {
	grab := "\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: grab, namespace: prod}\nspec: {template: {metadata: {labels: {app: grab, statefulset.kubernetes.io/pod-name: db-0}}, " +
		"spec: {containers: [{name: c, image: i}]}}}\n---"
	found, _ := meshes(t, pods+grab+networkPolicy("prod", "p", "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: db-0}}}]}]}"), policyConfig(t, ""))
	if allowed(found["prod"], "prod/statefulset/grab", podA, 80) {
		t.Error("a template claims the name of another StatefulSet's pod")
	}
}
