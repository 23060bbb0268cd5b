package kustomize_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"

	"github.com/meshless-dev/meshless/fn/kustomize"
)

// sameText holds Text against what kustomize prints. What kustomize cannot read is of no interest.
func sameText(t *testing.T, manifest string) {
	t.Helper()
	objects, err := resmap.NewFactory(provider.NewDefaultDepProvider().GetResourceFactory()).NewResMapFromBytes([]byte(manifest))
	if err != nil {
		return
	}
	want, wantErr := objects.AsYaml()
	got, err := kustomize.Text(objects)
	if (err == nil) != (wantErr == nil) {
		t.Errorf("%v, and kustomize says %v, of\n%s", err, wantErr, manifest)
	} else if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s\nof\n%s", diff, manifest)
	}
}

// scalars are values that something on the way from YAML to JSON and back may change.
var scalars = []string{
	"x", "1", "-1", "0", "-0", "+1", "01", "0x1f", "0o7", "1_000", "1e3", "1.0", ".5", "1.50", "9223372036854775807", "92233720368547758070", "1:30", "2001-01-01", "null", "~", "", "true", "True", "yes", "on",
	"y", "no", "'1'", "\"yes\"", "'y'", "\"~\"", "'null'", "'<<'", "\"a\\tb\"", "\"\\u0085\"", "\"\\u2028\"", "\"ü\"", "ü", "\"a\\nb\"", "\"a\\n\"", "\" a\"", "' '", "'a: b'", "'a #b'", "'- a'", "'{a}'", "'[a'",
	"'%a'", "'@a'", "'`a'", "'!a'", "'&a'", "'*a'", "'|'", "'>'", "'?'", "':'", "'a:'", "\"'\"", "'\"'", "\"\\\\\"", "!!str 1", "!!int '1'", "!!binary YQ==", "!!float 1", "[]", "{}", "[a, 1]", "{b: 1, a: 2}", "&a x",
	"|\n    a\n    b\n", "|-\n    a\n    b\n", "|+\n    a\n    b\n\n", ">\n    a\n      b\n    c\n", ">-\n    a\n    b\n", "|2\n     a\n    b\n", "|\n    a  \n    b\n", "|\n\n    a\n", "|\n    a\n\n    b\n", "|\n    a\tb\n", "|\n    # a\n", "|\n    - a\n",
	"a\n    b", "'a\n\n    b'", "\"a\n\n    b\"", "'" + strings.Repeat("long ", 60) + "'", strings.Repeat("long ", 60) + "x", "0.1", "1e400", ".inf", "-.inf", ".nan", "12e03", "0b11", "=", "<", "!", "\"\\x01\"", "\"\\x7f\"", "\"\\U0001F600\"", "\"\\r\"",
	"|\n    a\n    ...\n    b\n", "|\n    ---\n    a\n", "\"a \\n b\"", "\"\\n\"", "\"\\n\\n a\"", "'12345678901234567'", "1234567890123456",
}

// Text prints what kustomize prints, as values, as keys, and in lists.
func TestText(t *testing.T) {
	for _, scalar := range scalars {
		const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
		sameText(t, head+"data:\n  a: "+scalar+"\n")
		sameText(t, head+"data:\n- "+scalar+"\n- "+scalar+"\n")
		if !strings.Contains(scalar, "\n") {
			sameText(t, head+"data:\n  "+scalar+": a\n  b: {? "+scalar+" : [c]}\n")
		}
	}
}

// So it does with the renders of this repository.
func TestTextOfRenders(t *testing.T) {
	files, err := filepath.Glob("../pipeline/testdata/*/*.yaml")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, string(text))
	}
}

func FuzzText(f *testing.F) {
	for _, scalar := range scalars {
		f.Add(scalar)
	}
	f.Fuzz(func(t *testing.T, scalar string) {
		sameText(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: "+scalar+"\n")
	})
}
