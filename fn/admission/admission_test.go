package admission_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/admission"
	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

func declared(t *testing.T) *manifest.Workload {
	t.Helper()
	config, err := v1alpha1.Load(yaml.MustParse("{apiVersion: meshless.dev/v1alpha1, kind: MutualTLS}"))
	if config == nil {
		t.Fatal(err)
	}
	config.Spec.Workloads.Declared = []v1alpha1.DeclaredWorkload{{Kind: "Cluster", Name: "pg", Namespace: "data", Ports: []v1alpha1.DeclaredPort{{Name: "pg", Port: 5432}}}}
	r := &report.Report{}
	m := manifest.Build(nil, config.Spec, r)
	if r.Failed() {
		t.Fatal(r.Errors())
	}
	return m.Workloads[0]
}

// TestSpecs: a template into which an injection has put more than the policies put into pods is refused: pods would run
// otherwise than they are told.
func TestSpecs(t *testing.T) {
	for name, c := range map[string]struct{ template, want string }{
		"not injected":      {"{containers: [{name: app, ports: []}]}", ""},
		"injected":          {"{containers: [{name: app}], initContainers: [{name: meshless-init}, {name: meshless-proxy}], volumes: [{name: meshless}]}", ""},
		"a field":           {"{containers: [{name: app}], dnsPolicy: None}", "spec.dnsPolicy, which"},
		"another volume":    {"{containers: [{name: app}], volumes: [{name: meshless}, {name: meshless-other}]}", `"meshless-other" among spec.volumes`},
		"another container": {"{containers: [{name: app}], initContainers: [{name: meshless-other}]}", `"meshless-other" among spec.initContainers`},
		"the app's":         {"{containers: [{name: app, ports: [], volumeMounts: []}]}", "more than their ports"},
		"none":              {"1", "no pod template"},
	} {
		t.Run(name, func(t *testing.T) {
			w := declared(t)
			w.Declaration.Node = yaml.MustParse("{template: {spec: " + c.template + "}}")
			_, err := admission.Specs("name", w.Declaration, w.Plan)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
