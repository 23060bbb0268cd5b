//go:build e2e && linux

package helm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// helm is a release of Helm, and how a post-renderer is named to it.
type helm struct {
	name, program string
	postRenderer  string
	hooks         bool // they are handed to a post-renderer
	atomic        string
	env           []string
}

// eachHelm runs a test with both, beside each other; the second takes plugins alone.
func eachHelm(t *testing.T, test func(*testing.T, *helm)) {
	t.Helper()
	page, err := os.ReadFile("../../../docs/helm.md")
	if err != nil {
		t.Fatal(err)
	}
	_, plugin, _ := strings.Cut(string(page), "```yaml\n# plugin.yaml\n")
	plugin, _, _ = strings.Cut(plugin, "```")
	for _, h := range []*helm{{name: "helm3", atomic: "--atomic"}, {name: "helm4", postRenderer: "meshless", hooks: true, atomic: "--rollback-on-failure"}} {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			h.program = program.Find(t, h.name, "test/consumers/helm.sh")
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "plugins/meshless/plugin.yaml"), plugin, 0o644)
			if h.postRenderer == "" {
				h.postRenderer = filepath.Join(dir, "mesh.sh")
				writeFile(t, h.postRenderer, "#!/bin/sh\nexec meshless render \"$@\" -\n", 0o755)
			}
			h.env = append(program.WithMeshless(t), "HELM_PLUGINS="+filepath.Join(dir, "plugins"), "HELM_CACHE_HOME="+dir)
			test(t, h)
		})
	}
}

func writeFile(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// release is a release in a namespace of its own, and the folder in Git with its config and its certificates.
type release struct {
	*helm
	namespace, chart string
	folder           *example.Example
	values           []string // flags
	meshed           bool     // with the post-renderer
}

// newRelease makes the namespace with the identity. Nothing is issued or installed yet.
func newRelease(t *testing.T, h *helm, name, chart, config string, values ...string) *release {
	t.Helper()
	r := &release{helm: h, namespace: name + "-" + h.name, chart: chart, values: values, meshed: true}
	stage.NewNamespace(t, r.namespace)
	r.folder = stage.Package(t, r.namespace, "{}", config)
	stage.Must(t, r.folder.IdentitySecret(r.namespace), "apply", "-f", "-")
	return r
}

// set replaces a value.
func (r *release) set(values ...string) {
	for _, value := range values {
		r.values = append(r.values, "--set="+value)
	}
}

// issue makes what is missing or due for what the chart renders, as CI would before Helm runs.
func (r *release) issue(t *testing.T, now time.Time) string {
	t.Helper()
	out, err := r.try(t, append([]string{"template", "my", r.chart}, r.values...)...)
	if err != nil {
		t.Fatal(err)
	}
	r.folder.Write(t, "pod.yaml", out)
	return r.folder.Issue(t, now)
}

// upgrade is `helm upgrade --install` with the values.
func (r *release) upgrade(t *testing.T, flags ...string) string {
	t.Helper()
	out, err := r.tryUpgrade(t, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *release) tryUpgrade(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	args := append([]string{"upgrade", "--install", "my", r.chart, "--wait", "--timeout=90s"}, r.values...)
	if r.meshed {
		args = append(args, "--post-renderer", r.postRenderer)
		for _, arg := range []string{"--config=" + filepath.Join(r.folder.Dir, "mtls.yaml"), "--state=" + filepath.Join(r.folder.Dir, "mtls"), "--namespace=" + r.namespace} {
			args = append(args, "--post-renderer-args", arg)
		}
	}
	return r.try(t, append(args, flags...)...)
}

// run is a command of Helm that has to succeed.
func (r *release) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := r.try(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *release) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // each wait of Helm has its own
	defer cancel()
	started := time.Now()
	cmd := exec.CommandContext(ctx, r.program, append(args, "--namespace", r.namespace)...)
	cmd.Env = r.env
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	t.Logf("helm %s: %v (%v)", strings.Join(args[:min(2, len(args))], " "), time.Since(started).Round(100*time.Millisecond), err)
	if err != nil {
		err = fmt.Errorf("helm %s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), err
}

// manifest is what Helm stored of the release, of a revision or of the newest.
func (r *release) manifest(t *testing.T, flags ...string) string {
	t.Helper()
	return r.run(t, append([]string{"get", "manifest", "my"}, flags...)...)
}

// deployed is the manifest with the hooks that came through the post-renderer: those of Helm 3 did not.
func (r *release) deployed(t *testing.T, revision ...string) string {
	t.Helper()
	manifest := r.manifest(t, revision...)
	if !r.hooks {
		return manifest
	}
	return manifest + "\n---\n" + r.run(t, append([]string{"get", "hooks", "my"}, revision...)...)
}

// revision is the newest one, and its status.
func (r *release) revision(t *testing.T) (int, string) {
	t.Helper()
	var status struct {
		Version int
		Info    struct{ Status string }
	}
	if err := json.Unmarshal([]byte(r.run(t, "status", "my", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	return status.Version, status.Info.Status
}

// meshless runs the command on a stream; it returns what it says on its standard error.
func (r *release) meshless(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program.Meshless(t), args...)
	cmd.Stdin = strings.NewReader(stdin)
	var told strings.Builder
	cmd.Stderr = &told
	err := cmd.Run()
	return told.String(), err
}

// pods are who the pods of an app are, and how often their containers restarted.
func (r *release) pods(t *testing.T, apps ...string) map[string]int32 {
	t.Helper()
	found := map[string]int32{}
	for _, pod := range stage.Pods(t, r.namespace, "app in ("+strings.Join(apps, ",")+")") {
		if pod.DeletionTimestamp != nil {
			continue
		}
		key := pod.Labels["app"] + " " + string(pod.UID)
		for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
			found[key] += s.RestartCount
		}
	}
	return found
}
