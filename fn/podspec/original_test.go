package podspec_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
)

const probed = `containers:
  - name: web
    readinessProbe:
      httpGet:
        path: /
        port: 8080
        # who asks
        httpHeaders:
          - name: Cookie
            value: a=b
`

// kpt takes the indentation of a document's first list for that of all; that of our annotation stands above the user's.
func TestOriginalHidesItsLists(t *testing.T) {
	for _, style := range []yaml.SequenceIndentStyle{yaml.WideSequenceStyle, yaml.CompactSequenceStyle} {
		var text strings.Builder
		if err := yaml.NewEncoderWithOptions(&text, &yaml.EncoderOptions{SeqIndent: style}).Encode(yaml.MustParse(probed).YNode()); err != nil {
			t.Fatal(err)
		}
		if got := yaml.DeriveSeqIndentStyle("annotation: |\n  " + strings.ReplaceAll(rewritten(t), "\n", "\n  ") + "\n" + text.String()); got != string(style) {
			t.Errorf("%s: kpt would take the document for %s", style, got)
		}
	}
}

// rewritten is the annotation of probed.
func rewritten(t *testing.T) string {
	t.Helper()
	spec := yaml.MustParse(probed)
	pod := read[corev1.PodSpec](t, probed)
	text, err := podspec.RewriteHandlers(spec.YNode(), &pod, podspec.Handlers(&pod, nil, func(field string, err error) { t.Fatal(field, err) }), func(field string, err error) { t.Fatal(field, err) })
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What earlier releases wrote, with lists that are not indented, is read as well.
func TestRestoreOriginalOfEarlierReleases(t *testing.T) {
	const old = "web:\n  readinessProbe:\n    httpGet:\n      path: /\n      port: 8080\n      # who asks\n      httpHeaders:\n      - name: Cookie\n        value: a=b\n"
	for _, original := range []string{old, rewritten(t)} {
		spec := yaml.MustParse(probed)
		pod := read[corev1.PodSpec](t, probed)
		if _, err := podspec.RewriteHandlers(spec.YNode(), &pod, podspec.Handlers(&pod, nil, nil), nil); err != nil {
			t.Fatal(err)
		}
		if err := podspec.RestoreHandlers(spec.YNode(), node.Text(original)); err != nil {
			t.Fatal(err)
		}
		if got, want := spec.MustString(), yaml.MustParse(probed).MustString(); got != want {
			t.Errorf("%s of\n%s\nrestores\n%s\nwant\n%s", api.OriginalAnnotation, original, got, want)
		}
	}
}
