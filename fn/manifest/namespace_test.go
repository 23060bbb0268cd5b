package manifest_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

func TestEffectiveNamespace(t *testing.T) {
	for _, c := range []struct {
		object report.Object
		want   string
	}{
		{report.Object{APIVersion: "apps/v1", Kind: "Deployment"}, "default"},
		{report.Object{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "default"}, "default"},
		{report.Object{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "prod"}, "prod"},
		{report.Object{APIVersion: "example.com/v1", Kind: "Unknown"}, "default"},
		{report.Object{APIVersion: "v1", Kind: "Namespace"}, ""},
		{report.Object{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Namespace: "prod"}, ""},
	} {
		if got := manifest.EffectiveNamespace(c.object); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.object, got, c.want)
		}
	}
}

// TestOneNamespace: nothing else in the function says what a missing namespace means.
func TestOneNamespace(t *testing.T) {
	spelled := regexp.MustCompile(`NamespaceDefault|\.GetNamespace\(\)|[nN]amespace.*"default"`)
	// an origin says of the transformer what its file says, as kustomize's own does
	allowed := []string{"../manifest/namespace.go", "../report/report.go", "../kustomize/finish.go"}
	seen := 0
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || slices.Contains(allowed, filepath.ToSlash(file)) {
			return err
		}
		seen++
		text, err := os.ReadFile(file)
		for i, line := range strings.Split(string(text), "\n") {
			if code, _, _ := strings.Cut(line, "//"); spelled.MatchString(code) {
				t.Errorf("%s:%d: use manifest.EffectiveNamespace, NamespaceOf or Key: %s", file, i+1, strings.TrimSpace(line))
			}
		}
		return err
	})
	if err != nil || seen < 50 {
		t.Fatalf("%d files read (%v)", seen, err)
	}
}
