package verify_test

import (
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// declare declares the pods of an operator, with a Service of its own.
func declare(s *v1alpha1.Spec) {
	s.Workloads.Declared = []v1alpha1.DeclaredWorkload{{Kind: "Cluster", Name: "pg", Namespace: "prod",
		Selector: metav1.LabelSelector{MatchLabels: map[string]string{"cnpg.io/cluster": "pg"}},
		Ports:    []v1alpha1.DeclaredPort{{Name: "postgresql", Port: 5432}}, Annotations: map[string]string{"meshless.dev/permissive-ports": "9187"},
		Services: []v1alpha1.DeclaredService{{Name: "pg-rw", Ports: []v1alpha1.DeclaredServicePort{{Port: 5432}}}}}}
}

// TestPolicies: each policy of a declared workload that is missing, altered, or too much is a finding.
func TestPolicies(t *testing.T) {
	good, _ := renderedFor(t, manifests, declare, pipeline.Options{Now: now, Mode: pipeline.Store})
	objects := strings.Split(good, "\n---\n")
	without := func(kind string) string {
		var left []string
		for _, o := range objects {
			if !strings.Contains(o, "kind: "+kind+"\n") {
				left = append(left, o)
			}
		}
		if len(left) != len(objects)-1 {
			t.Fatalf("there is no single %s", kind)
		}
		return strings.Join(left, "\n---\n")
	}
	for name, c := range map[string]struct{ text, want string }{
		"good":             {good, ""},
		"no mutation":      {without("MutatingAdmissionPolicy"), "which no declaration in the input asks for"},
		"no binding":       {without("MutatingAdmissionPolicyBinding"), "cluster prod/pg: its MutatingAdmissionPolicyBinding meshless-"},
		"no validation":    {without("ValidatingAdmissionPolicy"), "cluster prod/pg: its ValidatingAdmissionPolicy meshless-"},
		"no binding of it": {without("ValidatingAdmissionPolicyBinding"), "cluster prod/pg: its ValidatingAdmissionPolicyBinding meshless-"},
		"it fails open":    {strings.Replace(good, "failurePolicy: Fail", "failurePolicy: Ignore", 1), "spec.failurePolicy: is \"Ignore\", and must be \"Fail\""},
		"it warns alone":   {strings.Replace(good, "- Deny", "- Warn", 1), "spec.validationActions[0]"},
		"other pods":       {strings.Replace(good, "    objectSelector:\n      matchLabels:\n        cnpg.io/cluster: pg", "    objectSelector:\n      matchLabels:\n        cnpg.io/cluster: other", 1), "spec.matchConstraints.objectSelector"},
		"another image":    {strings.Replace(good, `"image": dyn("ghcr.io`, `"image": dyn("evil.example`, 1), "spec.variables["},
		"another plan":     {strings.Replace(good, "            - --proxy-uid=15000\n", "            - --proxy-uid=15000\n            - --exclude-inbound-ports=1-65535\n", 1), "spec.variables["},
		"a binding that is not applied": {regexp.MustCompile(`kind: ValidatingAdmissionPolicyBinding\nmetadata:\n  name: .*\n  annotations:\n`).ReplaceAllString(good, "$0    config.kubernetes.io/local-config: \"true\"\n"),
			"metadata.annotations[config.kubernetes.io/local-config]: keeps it from being applied"},
		"a policy in another version": {good + "---\napiVersion: admissionregistration.k8s.io/v1beta1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: " + nameOf(t, good) + "}\nspec: {failurePolicy: Ignore}\n", "stands twice"},
		"a name of ours":              {good + "---\napiVersion: admissionregistration.k8s.io/v1alpha1\nkind: MutatingAdmissionPolicy\nmetadata: {name: meshless-other.prod.cluster.pg}\nspec: {failurePolicy: Ignore}\n", "is the name of a MutatingAdmissionPolicy of meshless, and this is none"},
		"a declaration that is none":  {strings.Replace(good, "      kind: Cluster\n", "      kind: {}\n", 1), "metadata.annotations[meshless.dev/declared]: is damaged; render again"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "good" && c.text == good {
				t.Fatal("nothing was changed")
			}
			r := &report.Report{}
			verify.Check(parse(t, c.text), verify.Options{Now: now, EveryWorkload: true, Kinds: manifest.KindsOf(v1alpha1.Spec{})}, r)
			said := strings.Join(r.Errors(), "\n")
			if c.want == "" && said != "" || !strings.Contains(said, c.want) {
				t.Errorf("got:\n%s\nwant %q", said, c.want)
			}
		})
	}
}

// nameOf is the name of the policies in rendered manifests.
func nameOf(t *testing.T, rendered string) string {
	t.Helper()
	found := regexp.MustCompile(`kind: ValidatingAdmissionPolicy\nmetadata:\n  name: (.*)\n`).FindStringSubmatch(rendered)
	if found == nil {
		t.Fatal("there is no policy")
	}
	return found[1]
}
