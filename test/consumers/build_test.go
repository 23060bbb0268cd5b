package consumers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// meshlessBuild is `meshless build` without a flag for the function.
func meshlessBuild(t *testing.T, dir string, flags ...string) (stdout, stderr string, err error) {
	t.Helper()
	return command(t, "", program.Meshless(t), append(append([]string{"build"}, flags...), dir)...)
}

// sameAsKustomize builds with both, which must print the same on both streams. differs, unless nil, says what may be
// different.
func sameAsKustomize(t *testing.T, e *example.Example, differs map[string]bool, flags ...string) string {
	t.Helper()
	want, wantErrors, err := command(t, "", program.Kustomize(t), append([]string{"build", "--enable-alpha-plugins", "--enable-exec", e.Dir}, flags...)...)
	if err != nil {
		t.Fatalf("kustomize build: %v\n%s", err, wantErrors)
	}
	got, errors, err := meshlessBuild(t, e.Dir, flags...)
	if err != nil {
		t.Fatalf("meshless build: %v\n%s", err, errors)
	}
	rest := func(text string) (kept []string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); !differs[line] {
				kept = append(kept, line)
			}
		}
		return kept
	}
	if differs == nil && want != got {
		t.Errorf("not the same bytes:\n%s", cmp.Diff(want, got))
	} else if diff := cmp.Diff(rest(want), rest(got)); diff != "" {
		t.Error(diff)
	}
	if differs == nil && wantErrors != errors {
		t.Errorf("not the same messages:\n%s", cmp.Diff(wantErrors, errors))
	}
	return got
}

// `meshless build` prints what kustomize prints with the function, and needs no flag for it.
func TestBuildExamples(t *testing.T) {
	for _, name := range []string{"pod", "shop", "ingress"} {
		t.Run(name, func(t *testing.T) {
			e := example.Copy(t, "../../examples/"+name)
			e.Issue(t, time.Now())
			e.Verify(t, sameAsKustomize(t, e, nil))
			want, got := t.TempDir(), t.TempDir()
			if _, stderr, err := command(t, "", program.Kustomize(t), "build", "--enable-alpha-plugins", "--enable-exec", "-o", want, e.Dir); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if _, stderr, err := meshlessBuild(t, e.Dir, "-o", got); err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if diff := cmp.Diff(files(t, want), files(t, got)); diff != "" {
				t.Error(diff)
			}
			for _, flags := range [][]string{{"--network", "--network-name=bridge"}, {"--as-current-user"}, {"--env=A=b"}, {"--mount=type=tmpfs"}, {"--load-restrictor=LoadRestrictionsNone"},
				{"--enable-managedby-label"}} {
				sameAsKustomize(t, e, nil, flags...)
			}
			byFunction := e.Render(t)
			e.Containerize(t)
			if out, stderr, err := meshlessBuild(t, e.Dir); err != nil || out != byFunction {
				t.Errorf("without Docker: %v\n%s%s", err, stderr, cmp.Diff(byFunction, out))
			}
		})
	}
}

// overlays are put over the manifests of others.
var overlays = map[string]string{
	"plain": "",
	"everything": "namespace: prod\nnamePrefix: px-\nbuildMetadata: [originAnnotations, transformerAnnotations, managedByLabel]\nsortOptions: {order: fifo}\n" +
		"configMapGenerator: [{name: more, literals: [a=b]}]\nlabels: [{pairs: {team: a}, includeTemplates: true}]\n",
}

// webhooks are the lines that a function of kustomize does not have with a name prefix: it sees webhooks before
// kustomize names their Services.
var webhooks = map[string]map[string]bool{
	"metallb everything":       {`"tlsPassthroughPorts": "9443",`: true},
	"ingress-nginx everything": {`"tlsPassthroughPorts": "8443",`: true},
}

// So it is with the manifests of others.
func TestBuildCorpus(t *testing.T) {
	corpus, err := filepath.Glob(filepath.Join(env.Corpus(t), "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range corpus {
		manifests, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for overlay, text := range overlays {
			name := strings.TrimSuffix(filepath.Base(file), ".yaml") + " " + overlay
			t.Run(name, func(t *testing.T) {
				e := overlayOf(t, text, string(manifests))
				got := sameAsKustomize(t, e, webhooks[name])
				for line := range webhooks[name] {
					if !strings.Contains(got, line) {
						t.Errorf("the API server cannot call the webhook: there is no %s", line)
					}
				}
			})
		}
	}
}

// overlayOf is an issued kustomization over manifests.
func overlayOf(t *testing.T, overlay, manifests string) *example.Example {
	t.Helper()
	e := example.Copy(t, "../../examples/pod")
	remove(t, e, "pod.yaml")
	write(t, e, "base/all.yaml", manifests)
	write(t, e, "base/kustomization.yaml", "resources: [all.yaml]\n")
	write(t, e, "kustomization.yaml", overlay+"resources: [base, mtls]\ntransformers: [mtls.yaml]\n")
	e.Issue(t, time.Now())
	return e
}
