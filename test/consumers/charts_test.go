package consumers

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// chartTemplate leaves the namespace to Helm, as most charts do.
const chartTemplate = `apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}-cache"}
spec:
  selector: {matchLabels: {app: cache}}
  template:
    metadata: {labels: {app: cache}}
    spec: {containers: [{name: cache, image: "cache:{{ .Values.tag }}", ports: [{containerPort: 6379}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: "{{ .Release.Name }}-cache"}
spec: {selector: {app: cache}, ports: [{port: 6379}]}
`

// namespacePatch is the way out of docs/kustomize.md.
const namespacePatch = `patches:
- target: {kind: (Deployment|Service)}
  patch: |
    - {op: add, path: /metadata/namespace, value: prod}
`

// chartOverlay is a kustomization of a chart, which lies in chart/, beside web.yaml.
func chartOverlay(t *testing.T, overlay string) *example.Example {
	t.Helper()
	e := example.Copy(t, "../../examples/pod")
	remove(t, e, "pod.yaml", "mtls", "Kptfile")
	write(t, e, "chart/charts/cache/Chart.yaml", "apiVersion: v2\nname: cache\nversion: 0.1.0\n")
	write(t, e, "chart/charts/cache/values.yaml", "tag: 1\n")
	write(t, e, "chart/charts/cache/templates/cache.yaml", chartTemplate)
	write(t, e, "chart/kustomization.yaml", "helmGlobals: {chartHome: charts}\nhelmCharts: [{name: cache, releaseName: my}]\n")
	write(t, e, "web.yaml", webOfNoNamespace)
	write(t, e, "kustomization.yaml", overlay+"transformers: [mtls.yaml]\n")
	return e
}

// A kustomization with a chart is issued in this process and by the user's own build, with both releases of Helm.
func TestKustomizeCharts(t *testing.T) {
	for _, name := range []string{"helm3", "helm4"} {
		t.Run(name, func(t *testing.T) {
			helm := program.Find(t, name, "test/consumers/helm.sh")
			e := chartOverlay(t, "namespace: prod\nresources: [chart, web.yaml, mtls]\n"+namespacePatch)
			flags := []string{"--enable-helm", "--helm-command=" + helm}
			build := strings.Join(append([]string{program.Kustomize(t), "build --enable-alpha-plugins --enable-exec", e.Dir}, flags...), " ")
			mustMeshless(t, "issue", "--build", build, e.Dir)
			stored := files(t, filepath.Join(e.Dir, "mtls"))
			if stored["/prod/deployment-my-cache.yaml"] == "" || stored["/prod/deployment-web.yaml"] == "" || stored["/kustomization.yaml"] == "" {
				t.Errorf("issued no certificates of both workloads: %d files", len(stored))
			}
			mustMeshless(t, append([]string{"issue", e.Dir}, flags...)...)
			if diff := cmp.Diff(stored, files(t, filepath.Join(e.Dir, "mtls"))); diff != "" {
				t.Errorf("in this process it issues something else:\n%s", diff)
			}
			e.Verify(t, sameAsKustomize(t, e, nil, flags...))
			mustMeshless(t, append([]string{"verify", e.Dir}, flags...)...)
			if _, stderr, err := command(t, "", program.Meshless(t), "issue", e.Dir); err == nil || !strings.Contains(stderr, "--enable-helm") {
				t.Errorf("issue without --enable-helm: %v\n%s", err, stderr)
			}
		})
	}
}

// kustomize 5.8 leaves objects of a chart without the namespace of the overlay above (kustomize#6058): nothing is
// issued for a namespace in which nobody is, by whatever way, and an earlier state stays.
func TestKustomizeChartsWithoutNamespace(t *testing.T) {
	helm := program.Find(t, "helm3", "test/consumers/helm.sh")
	flags := []string{"--enable-helm", "--helm-command=" + helm}
	for name, resources := range map[string]string{"beside others": "[chart, web.yaml, mtls]", "alone": "[chart, mtls]"} {
		t.Run(name, func(t *testing.T) {
			e := chartOverlay(t, "namespace: prod\nresources: "+resources+"\n")
			build := strings.Join(append([]string{program.Kustomize(t), "build --enable-alpha-plugins --enable-exec", e.Dir}, flags...), " ")
			const want = `deployment my-cache: metadata.namespace: is missing, and others are in "prod". kustomize 5.8 leaves objects of helmCharts without one`
			for _, args := range [][]string{append([]string{"issue", e.Dir}, flags...), {"issue", "--build", build, e.Dir}} {
				if _, stderr, err := command(t, "", program.Meshless(t), args...); err == nil || !strings.Contains(stderr, want) {
					t.Errorf("meshless %v: %v\n%s", args, err, stderr)
				}
				if stored := files(t, e.Dir); stored["/mtls/ca.yaml"]+stored["/mtls/kustomization.yaml"] != "" {
					t.Errorf("meshless %v has written state", args)
				}
			}
			plain := "namespace: prod\nresources: " + resources + "\ntransformers: [mtls.yaml]\n"
			write(t, e, "kustomization.yaml", plain+namespacePatch)
			mustMeshless(t, append([]string{"issue", e.Dir}, flags...)...)
			e.Verify(t, sameAsKustomize(t, e, nil, flags...))
			write(t, e, "kustomization.yaml", plain) // the patch is lost again
			if out, stderr, err := meshlessBuild(t, e.Dir, flags...); err == nil || out != "" || !strings.Contains(stderr, want) {
				t.Errorf("meshless build: %v\n%s", err, stderr)
			}
			if out, stderr, err := command(t, "", "sh", "-c", build); err == nil || out != "" {
				t.Errorf("kustomize build goes through:\n%s", stderr)
			}
		})
	}
}

// What kubectl builds with the kustomize in it, which knows no exec function, is a stream.
func TestKubectlBuildsAStream(t *testing.T) {
	_, err := exec.LookPath("kubectl")
	need(t, "kubectl", err == nil)
	e := chartOverlay(t, "")
	write(t, e, "kustomization.yaml", "namespace: prod\nresources: [web.yaml]\n")
	at := func(name string) string { return filepath.Join(e.Dir, name) }
	where := []string{"--config", at("mtls.yaml"), "--state", at("mtls")}
	build := "kubectl kustomize " + e.Dir
	mustMeshless(t, append(append([]string{"issue", "--build", build}, where...), "-")...)
	rendered, stderr, err := command(t, "", "sh", "-c", fmt.Sprintf("%s | meshless render %s -", build, strings.Join(where, " ")))
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	e.Verify(t, rendered)
	if !strings.Contains(rendered, "spiffe://cluster.local/ns/prod/deployment/web") {
		t.Error("is not rendered for the namespace of the build")
	}
}

// mustMeshless runs a command that must succeed.
func mustMeshless(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, err := command(t, "", program.Meshless(t), args...)
	if err != nil {
		t.Fatalf("meshless %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return out
}
