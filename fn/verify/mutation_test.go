package verify_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"
	k8syaml "sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/api"
)

// mutation is a kind of change that Check lets pass: what is done, where, and why that is no fault.
type mutation struct{ what, where, reason string }

// harmless are changes that nobody needs to notice.
var harmless = []mutation{
	{".*", `/metadata/labels(/app\.kubernetes\.io.*|/unknownField)?$`, "labels are for people and for the kustomization, which puts its own on everything"},
	{"added", `/metadata/annotations/unknownField$`, "annotations of others are welcome, such as Argo CD's"},
	{".*", `/annotations/internal\.config\.kubernetes\.io~1path$`, "it places the file, and is never applied"},
	{"added", `~1original/.*unknownField$`, "it is the app's own probe, as its manifest says it"},
	{"added", `/readinessProbe/unknownField$`, "the probe is the app's, but for its handler"},
	{"taken out", `/annotations/meshless\.dev~1renew-after$`, "Secrets of earlier releases have none, and are due after half of the leaf's life"},
	{".*", `/annotations/meshless\.dev~1written$`, "the next render writes the Job anew then; verify asks for the record where a Job's image is not the others'"},
	{"taken out", `~1default-container$`, "kubectl's choice of a container is then the user's own, and un-injection keeps it"},
	{".*", `^CertificateAuthority/`, "it is never applied; statediff, the second half of the command, and the next issue judge it"},
}

// configured are changes of what the config alone says: `meshless verify --config` notices each.
var configured = []mutation{
	{"taken out", `/resources(/.*)?$`, "what the containers get"},
	{"taken out", `/env(/0)?$`, "that the proxy is told its namespace; earlier editions wrote none"},
	{"changed", `/annotations/meshless\.dev~1recipients$`, "to whom keys are sealed"},
}

// TestMutations: every field of every object that a render writes is changed, one at a time: given another value, taken
// out, doubled, turned round, and given a neighbor. Each change is a finding, or stands in a list of harmless ones.
func TestMutations(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	if underRace {
		t.Skip("takes ten minutes with the race detector; make test runs it without")
	}
	used := map[string]bool{}
	for name, change := range map[string]func(*v1alpha1.Spec){
		"native":      func(*v1alpha1.Spec) {},
		"shared":      func(*v1alpha1.Spec) {},
		"declared":    declare,
		"no-redirect": func(s *v1alpha1.Spec) { s.Redirect.Mode = v1alpha1.RedirectNone },
		"container":   func(s *v1alpha1.Spec) { s.Sidecar.Mode = v1alpha1.ContainerSidecar },
		"cert-manager": func(s *v1alpha1.Spec) {
			s.Sealing, s.Certificates.CA, s.Certificates.Issuer = v1alpha1.Sealing{}, v1alpha1.CA{}, v1alpha1.IssuerCertManager
			s.Certificates.CertManager.IssuerRef = v1alpha1.IssuerRef{Name: "ca", Kind: "ClusterIssuer", Group: "cert-manager.io"}
			s.Certificates.CertManager.Bundle = v1alpha1.ConfigMapKey{ConfigMap: "trust", Key: "ca.crt"}
		},
	} {
		text, config := renderedFor(t, manifests, change, pipeline.Options{Now: now, Mode: pipeline.Store, SharedCA: name == "shared"})
		config.Spec.Issuance = v1alpha1.IssuanceNever
		noticed := 0
		eachMutation(decoded(t, text), func(path, what string, mutated []any) {
			if name == "declared" && !strings.Contains(path, "AdmissionPolicy") {
				return // the rest is as with "native"
			}
			switch items := encoded(t, mutated); {
			case found(items, nil):
				noticed++
			case listed(harmless, path, what, used):
			case listed(configured, path, what, used):
				if !found(items, config) {
					t.Errorf("%s: %s: %s is not noticed with --config", name, path, what)
				}
			default:
				t.Errorf("%s: %s: %s is not noticed", name, path, what)
			}
		})
		t.Logf("%s: %d changes are findings", name, noticed)
		if noticed < 300 {
			t.Errorf("%s: %d changes were noticed; does this test still make them?", name, noticed)
		}
	}
	for _, m := range append(slices.Clone(harmless), configured...) {
		if !used[m.where] {
			t.Errorf("nothing is %s at %s; take it out of the list", m.what, m.where)
		}
	}
}

// found tells whether verify says anything; with a config, whether it holds against it.
func found(items []*yaml.RNode, config *v1alpha1.MutualTLS) bool {
	r := &report.Report{}
	if config == nil {
		verify.Check(items, verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
		return len(r.Results()) > 0
	}
	out := pipeline.Run(items, config, pipeline.Options{Now: now}, r)
	if !r.Failed() {
		verify.Against(items, out, r)
	}
	return r.Failed()
}

func listed(list []mutation, path, what string, used map[string]bool) bool {
	i := slices.IndexFunc(list, func(m mutation) bool {
		return regexp.MustCompile("^"+m.what+"$").MatchString(what) && regexp.MustCompile(m.where).MatchString(path)
	})
	if i >= 0 {
		used[list[i].where] = true
	}
	return i >= 0
}

// decoded are the items of a stream as values of JSON.
func decoded(t *testing.T, text string) (items []any) {
	t.Helper()
	for _, item := range parse(t, text) {
		var v any
		if err := k8syaml.Unmarshal([]byte(item.MustString()), &v); err != nil {
			t.Fatal(err)
		}
		items = append(items, v)
	}
	return items
}

func encoded(t *testing.T, items []any) (nodes []*yaml.RNode) {
	t.Helper()
	for _, item := range items {
		data, err := k8syaml.Marshal(item)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, yaml.MustParse(string(data)))
	}
	return nodes
}

// eachMutation hands over the items once for each change of a field that a render writes.
func eachMutation(items []any, visit func(path, what string, mutated []any)) {
	for i := range items {
		object := items[i].(map[string]any)
		metadata := object["metadata"].(map[string]any)
		name := fmt.Sprintf("%s/%s", object["kind"], metadata["name"])
		mutate(object, "", func(path, what string, changed any) {
			if ofOurs(object, path) {
				mutated := slices.Clone(items)
				mutated[i] = changed
				visit(name+path, what, mutated)
			}
		})
	}
}

var injectedPath = regexp.MustCompile(`/(initContainers|containers)/\d+|/volumes/\d+`)

// ofOurs tells whether a render writes the field: whole objects of state, and in workloads what it injects.
func ofOurs(object map[string]any, path string) bool {
	annotations, _ := object["metadata"].(map[string]any)["annotations"].(map[string]any)
	if annotations[api.IdentityAnnotation] != nil {
		return true
	}
	if strings.Contains(path, "annotations/meshless.dev~1") || strings.Contains(path, "labels/meshless.dev~1") || strings.Contains(path, "Probe") {
		return true
	}
	at := injectedPath.FindString(path)
	if at == "" {
		return false
	}
	named, _ := lookup(object, path[:strings.Index(path, at)+len(at)]).(map[string]any)
	name, _ := named["name"].(string)
	return strings.HasPrefix(name, "meshless")
}

func lookup(v any, path string) any {
	for _, key := range strings.Split(strings.Trim(path, "/"), "/") {
		switch of := v.(type) {
		case map[string]any:
			v = of[key]
		case []any:
			var i int
			fmt.Sscan(key, &i)
			v = of[i]
		}
	}
	return v
}

// mutate calls visit with a copy of v for each change of one field of it.
func mutate(v any, path string, visit func(path, what string, changed any)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			with := func(change func(map[string]any)) any {
				c := make(map[string]any, len(v))
				for k, x := range v {
					c[k] = x
				}
				change(c)
				return c
			}
			at := path + "/" + strings.ReplaceAll(key, "/", "~1") // RFC 6901
			visit(at, "taken out", with(func(c map[string]any) { delete(c, key) }))
			mutate(value, at, func(path, what string, changed any) {
				visit(path, what, with(func(c map[string]any) { c[key] = changed }))
			})
		}
		added := map[string]any{"unknownField": "x"}
		for key, value := range v {
			added[key] = value
		}
		visit(path+"/unknownField", "added", added)
	case []any:
		for i, value := range v {
			visit(fmt.Sprintf("%s/%d", path, i), "taken out", slices.Delete(slices.Clone(v), i, i+1))
			visit(fmt.Sprintf("%s/%d", path, i), "doubled", slices.Insert(slices.Clone(v), i, value))
			mutate(value, fmt.Sprintf("%s/%d", path, i), func(path, what string, changed any) {
				c := slices.Clone(v)
				c[i] = changed
				visit(path, what, c)
			})
		}
		if len(v) > 1 {
			c := slices.Clone(v)
			slices.Reverse(c)
			visit(path, "reversed", c)
		}
	case string:
		mutateText(v, path, visit)
	case bool:
		visit(path, "changed", !v)
	case float64:
		visit(path, "changed", v+1)
	}
}

// mutateText changes a text, and what JSON or YAML in it says.
func mutateText(text, path string, visit func(path, what string, changed any)) {
	visit(path, "changed", text+"x")
	var inner any
	structured := strings.HasSuffix(path, "~1workload") || strings.HasSuffix(path, "~1original") || strings.HasSuffix(path, "/"+api.MeshFile)
	if !structured || k8syaml.Unmarshal([]byte(text), &inner) != nil {
		return
	}
	mutate(inner, path, func(path, what string, changed any) {
		encode := k8syaml.Marshal
		if strings.Contains(path, "~1workload") {
			encode = json.Marshal
		}
		if data, err := encode(changed); err == nil {
			visit(path, what, string(data))
		}
	})
}
