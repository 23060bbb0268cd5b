package report_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
)

// manifests are two documents, whose lines the reader counts one by one, with the annotations of kpt.
const manifests = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: a
  annotations:
    internal.config.kubernetes.io/path: apps/a.yaml
    internal.config.kubernetes.io/index: '1'
    example.com/b: c
spec:
  template:
    spec:
      containers:
      - name: x
      - image: y
        name: y
---
apiVersion: v1
kind: List
metadata:
  annotations: {config.kubernetes.io/path: list.yaml}
items:
- apiVersion: v1
  kind: Service
  metadata: {name: s}
`

func located(t *testing.T, r *report.Report) (deployment, service report.Object) {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(manifests), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	r.Locate(items)
	return report.ObjectOf(items[0]), report.Object{APIVersion: "v1", Kind: "Service", Name: "s"}
}

func text(t *testing.T, r *report.Report) string {
	t.Helper()
	var out strings.Builder
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestLines(t *testing.T) {
	for field, want := range map[string]string{
		"":                                       "(apps/a.yaml:1)",
		"spec":                                   "(apps/a.yaml:9)",
		"spec.template.spec.containers[0].name":  "(apps/a.yaml:13)",
		"spec.template.spec.containers[1].name":  "(apps/a.yaml:15)",
		"spec.template.spec.containers[1].ports": "(apps/a.yaml:14)",
		"spec.template.spec.containers[2].name":  "(apps/a.yaml:12)",
		report.Annotation("example.com/b"):       "(apps/a.yaml:8)",
		"metadata.labels":                        "(apps/a.yaml:3)",
	} {
		r := &report.Report{Lines: true}
		deployment, _ := located(t, r)
		r.Error(deployment, field, "is wrong")
		if got := text(t, r); !strings.HasSuffix(got, want+"\n") {
			t.Errorf("%s: got %q, want %s", field, got, want)
		}
	}
}

func TestFiles(t *testing.T) {
	r := &report.Report{}
	deployment, service := located(t, r)
	r.Error(deployment, "spec.replicas", "is wrong")
	r.Warn(service, "", "is in a List")
	r.Warn(report.Object{Kind: "Pod", Name: "p"}, "", "is nowhere")
	const want = "error: deployment a: spec.replicas: is wrong (apps/a.yaml)\nwarning: service s: is in a List (list.yaml)\nwarning: pod p: is nowhere\n"
	if got := text(t, r); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	results := r.Results()
	if f := results[0].File; f == nil || f.Path != "apps/a.yaml" || f.Index != 1 || results[2].File != nil {
		t.Errorf("got %+v and %+v", f, results[2].File)
	}
}

// Of two manifests of one object, each can be named, and malformed ones do no harm.
func TestLocateOdd(t *testing.T) {
	items := []*yaml.RNode{nil, yaml.MustParse("[a]"), yaml.MustParse("metadata: [a]"), yaml.MustParse("{metadata: {annotations: [a]}, kind: {}}")}
	for _, file := range []string{"a.yaml", "b.yaml", "b.yaml"} {
		items = append(items, yaml.MustParse("{kind: A, metadata: {name: a, annotations: {config.kubernetes.io/path: "+file+", config.kubernetes.io/index: x}}}"))
	}
	r := &report.Report{Lines: true}
	r.Locate(items)
	r.Error(report.Object{Kind: "A", Name: "a"}, "", "is wrong")
	r.ErrorIn(items[5], "", "stands twice, see%s", r.Where(" also", items[4]))
	if got := text(t, r); got != "error: a a: is wrong (a.yaml:1)\nerror: a a: stands twice, see also a.yaml:1 (b.yaml:1)\n" {
		t.Error(got)
	}
}

func TestConfig(t *testing.T) {
	r := &report.Report{}
	r.Warn(r.Config(), "spec.x", "is wrong")
	r.ConfigIs(report.Object{APIVersion: "meshless.dev/v1alpha1", Kind: "MutualTLS", Name: "mtls"})
	r.Warn(r.Config(), "spec.x", "is wrong")
	if got := text(t, r); got != "warning: mutualtls: spec.x: is wrong\nwarning: mutualtls mtls: spec.x: is wrong\n" {
		t.Error(got)
	}
}

// No message shows an age identity, whatever was formatted into it.
func TestRedact(t *testing.T) {
	r := &report.Report{}
	r.Error(report.Object{}, "", "cannot read %q", "age-secret-key-1abc")
	if got := text(t, r); strings.Contains(got, "1abc") {
		t.Error(got)
	}
}

// An age identity is taken out of a message; words about identities are not.
func TestRedactKeepsWords(t *testing.T) {
	r := &report.Report{}
	r.Error(report.Object{}, "", "wants lines AGE-SECRET-KEY-… and not %s", "age-secret-key-1QQQ")
	if got := r.Errors()[0]; got != "wants lines AGE-SECRET-KEY-… and not AGE-SECRET-KEY-[redacted]" {
		t.Errorf("got %q", got)
	}
}
