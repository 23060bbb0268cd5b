//go:build e2e && linux

package flux

import (
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// controllers are those of Flux that the module proxy has. They share one namespace and, as in their own manifests, one
// service account.
var controllers = []string{"source-controller", "kustomize-controller"}

// system is the namespace of the controllers, of the sources and of what syncs them: flux-system elsewhere.
const system = "flux-room"

// room is a Flux in the cluster and a folder of repositories that it reads.
type room struct {
	dir string // of bare repositories
	url string // of the folder, as pods reach it
}

// newRoom installs Flux and serves an empty folder.
func newRoom(t *testing.T) *room {
	t.Helper()
	forget()
	stage.NewNamespace(t, system)
	manifests := install(t)
	t.Cleanup(func() {
		if os.Getenv("KEEP") != "" {
			return
		}
		forget() // while there are CRDs: kubectl and the controllers know their kinds
		if _, err := stage.Kubectl(manifests, "delete", "--ignore-not-found", "--wait=false", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	r := &room{dir: t.TempDir()}
	r.url = serve(t, r.dir)
	for _, name := range controllers {
		stage.Must(t, "", "-n", system, "rollout", "status", "deployment/"+name, "--timeout=90s")
	}
	return r
}

// forget removes the objects of Flux and their finalizers: what they applied goes with the namespaces of the tests.
func forget() {
	for _, kind := range []string{"kustomizations.kustomize.toolkit.fluxcd.io", "helmreleases.helm.toolkit.fluxcd.io",
		"helmcharts.source.toolkit.fluxcd.io", "gitrepositories.source.toolkit.fluxcd.io"} {
		names, err := stage.Kubectl("", "-n", system, "get", kind, "-o", "name")
		if err != nil { // the first run: there is no such kind
			continue
		}
		for name := range strings.FieldsSeq(names) {
			_, _ = stage.Kubectl("", "-n", system, "patch", name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
			_, _ = stage.Kubectl("", "-n", system, "delete", name, "--ignore-not-found", "--wait=false")
		}
	}
}

// install applies the controllers with the CRDs and roles of their modules, and returns the manifests.
func install(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	kustomization := "namespace: " + system + "\nresources:\n"
	images := "images:\n"
	for _, name := range controllers {
		binary := program.Find(t, name, "test/cluster/flux/flux.sh builds it")
		config := filepath.Join(filepath.Dir(binary), "flux-config", name)
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(config)); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"crd", "rbac", "manager"} {
			kustomization += "  - " + name + "/" + part + "\n"
		}
		images += fmt.Sprintf("  - {name: fluxcd/%s, newName: meshless-test/%s, newTag: latest}\n", name, name)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization+images), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program.Kustomize(t), "build", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	manifests := string(out)
	stage.Must(t, manifests, "apply", "--server-side", "--force-conflicts", "-f", "-")
	return manifests
}

// serve serves a folder of repositories by Git's own program, on the address of the node, and returns its URL.
func serve(t *testing.T, dir string) string {
	t.Helper()
	node := stage.Must(t, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	listener, err := net.Listen("tcp", net.JoinHostPort(node, "0"))
	if err != nil {
		program.Missing(t, "a node of the cluster on this machine, whose pods can read a repository of the test: %v", err)
	}
	libexec, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"},
	}}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String() + "/"
}

// git runs git in a folder, as somebody.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), somebody...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// somebody is a name for commits.
var somebody = []string{"GIT_AUTHOR_NAME=ci", "GIT_AUTHOR_EMAIL=ci@example.com", "GIT_COMMITTER_NAME=ci", "GIT_COMMITTER_EMAIL=ci@example.com"}

// ci is the environment of a pipeline: meshless and kustomize on the PATH, and a name for its commits.
func ci(t *testing.T) []string {
	t.Helper()
	env := append(program.WithMeshless(t), somebody...)
	for i, entry := range env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			env[i] = "PATH=" + filepath.Dir(program.Kustomize(t)) + string(os.PathListSeparator) + path
		}
	}
	return env
}
