package consumers

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/kio"

	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// charts are those of the corpus, with values that make what they render the same each time.
var charts = map[string][]string{
	"podinfo": nil, "ingress-nginx": nil, "traefik": nil,
	"redis": {"--set=auth.password=a"}, "postgresql": {"--set=auth.postgresPassword=a"}, "rabbitmq": {"--set=auth.password=a,auth.erlangCookie=b"},
}

// needCharts is the folder of the charts. test/env/corpus.sh downloads no folders.
func needCharts(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(env.Corpus(t), "charts")
	if _, err := os.Stat(folder); err != nil {
		program.Missing(t, "the folder charts beside the single files of the corpus: %v", err)
	}
	return folder
}

// helm is a release of Helm, and how a post-renderer is named to it.
type helm struct {
	program      string
	postRenderer string
	hooks        bool // they are handed to a post-renderer
}

// helms are both releases; the second takes plugins alone.
func helms(t *testing.T) map[string]helm {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "mesh.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec meshless render \"$@\" -\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "plugins/meshless"), 0o755); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/helm.md")
	if err != nil {
		t.Fatal(err)
	}
	_, plugin, _ := strings.Cut(string(page), "```yaml\n# plugin.yaml\n")
	plugin, _, _ = strings.Cut(plugin, "```")
	if err := os.WriteFile(filepath.Join(dir, "plugins/meshless/plugin.yaml"), []byte(plugin), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HELM_PLUGINS", filepath.Join(dir, "plugins"))
	t.Setenv("HELM_CACHE_HOME", dir)
	found := map[string]helm{}
	for name, h := range map[string]helm{"helm3": {postRenderer: script}, "helm4": {postRenderer: "meshless", hooks: true}} {
		if h.program = program.Lookup(name); h.program == "" {
			t.Run(name, func(t *testing.T) { program.Find(t, name, "test/consumers/helm.sh") })
			continue
		}
		found[name] = h
	}
	return found
}

// template is `helm template` of a chart of the corpus.
func (h helm) template(t *testing.T, chart string, flags ...string) (stdout, stderr string, err error) {
	t.Helper()
	args := append([]string{"template", "my", filepath.Join(env.Corpus(t), "charts", chart), "--namespace=prod"}, charts[chart]...)
	if !h.hooks {
		args = append(args, "--no-hooks") // a post-renderer never sees them, so they would be printed as they are
	}
	return command(t, "", h.program, append(args, flags...)...)
}

// The charts of others go through a post-renderer of both releases, and are right; strip gives back what Helm had.
func TestHelmPostRenderer(t *testing.T) {
	needCharts(t)
	for name, h := range helms(t) {
		for chart := range charts {
			t.Run(name+" "+chart, func(t *testing.T) {
				plain, stderr, err := h.template(t, chart)
				if err != nil {
					t.Fatalf("helm template: %v\n%s", err, stderr)
				}
				e := overlayOf(t, "namespace: prod\n", plain)
				flags := []string{"--post-renderer", h.postRenderer}
				for _, arg := range []string{"--config=" + filepath.Join(e.Dir, "mtls.yaml"), "--state=" + filepath.Join(e.Dir, "mtls"), "--namespace=prod"} {
					flags = append(flags, "--post-renderer-args", arg)
				}
				meshed, stderr, err := h.template(t, chart, flags...)
				if err != nil {
					t.Fatalf("helm template with a post-renderer: %v\n%s", err, stderr)
				}
				if stderr, ok := verifyOutput(t, meshed); !ok {
					t.Error(stderr)
				}
				stripped, stderr, err := command(t, meshed, program.Meshless(t), "strip", "-")
				if err != nil {
					t.Fatalf("strip: %v\n%s", err, stderr)
				}
				if diff := cmp.Diff(values(t, plain), values(t, stripped)); diff != "" {
					t.Errorf("strip gives back something else:\n%s", diff)
				}
				if out, stderr, err := h.template(t, chart, flags[:len(flags)-6]...); err == nil {
					t.Errorf("without a config Helm succeeds: %s%s", out, stderr)
				}
			})
		}
	}
}

// values are the objects of a stream by kind and name, without their namespace.
func values(t *testing.T, stream string) map[string]any {
	t.Helper()
	items, err := kio.FromBytes([]byte(stream))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, item := range items {
		if err := item.SetNamespace(""); err != nil {
			t.Fatal(err)
		}
		// Helm 4 notes the template of an object in an annotation, and drops empty ones when it takes that out
		if err := item.SetAnnotations(item.GetAnnotations()); err != nil {
			t.Fatal(err)
		}
		text, err := item.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var object any
		if err := json.Unmarshal(text, &object); err != nil {
			t.Fatal(err)
		}
		objects[item.GetKind()+" "+item.GetName()] = object
	}
	return objects
}

// `helmCharts` of a kustomization are issued and built with the flags of kustomize.
func TestBuildHelmCharts(t *testing.T) {
	charts := needCharts(t)
	helm3 := program.Find(t, "helm3", "test/consumers/helm.sh")
	e := example.Copy(t, "../../examples/pod")
	remove(t, e, "pod.yaml")
	if err := os.CopyFS(filepath.Join(e.Dir, "charts/podinfo"), os.DirFS(filepath.Join(charts, "podinfo"))); err != nil {
		t.Fatal(err)
	}
	write(t, e, "kustomization.yaml", "namespace: prod\nhelmCharts: [{name: podinfo, releaseName: my, namespace: prod}]\nresources: [mtls]\ntransformers: [mtls.yaml]\n")
	issueSays(t, e.Dir, "must specify --enable-helm", false)
	flags := []string{"--enable-helm", "--helm-command=" + helm3}
	e.Issue(t, time.Now(), flags...)
	got := sameAsKustomize(t, e, nil, flags...)
	if stderr, ok := verifyOutput(t, got); !ok {
		t.Error(stderr)
	}
	if _, stderr, err := meshlessBuild(t, e.Dir); err == nil || !strings.Contains(stderr, "must specify --enable-helm") {
		t.Errorf("without --enable-helm: %v\n%s", err, stderr)
	}
}
