//go:build e2e && linux

package argocd

import (
	"net"
	"net/http"
	"net/http/cgi"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/program"
)

// host serves repositories to the pods, on the node's address.
type host struct{ root, url string }

// serveGit starts it. Pods reach this machine where it is their node.
func serveGit(t *testing.T) *host {
	t.Helper()
	node := stage.Must(t, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	ip, err := netip.ParseAddr(node)
	if err != nil {
		t.Fatal(err)
	}
	if !stage.Here(t, ip) {
		program.Missing(t, "a cluster whose node is this machine, so that pods reach the test's repositories: test/up.sh")
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	core, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(core)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=http.receivepack", "GIT_CONFIG_VALUE_1=true"},
	}}
	go func() { _ = server.Serve(listener) }() // until it is closed
	t.Cleanup(func() { _ = server.Close() })
	return &host{root: root, url: "http://" + listener.Addr().String()}
}

// repository is one of them, with one branch.
type repository struct {
	URL, Branch string
	git         string // its git directory
}

func (h *host) repository(t *testing.T, name, branch string) *repository {
	t.Helper()
	r := &repository{URL: h.url + "/" + name + ".git", Branch: branch, git: filepath.Join(h.root, name+".git")}
	r.run(t, "", "init", "-q", "--bare", "-b", branch, r.git)
	return r
}

// Commit commits what a folder holds, and nothing else, and returns the commit.
func (r *repository) Commit(t *testing.T, dir string) string {
	t.Helper()
	r.run(t, dir, "add", "--all")
	r.run(t, dir, "commit", "-q", "--allow-empty", "-m", "a commit of "+t.Name())
	return r.run(t, dir, "rev-parse", "HEAD")
}

// CommitFiles is Commit of files by their names.
func (r *repository) CommitFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r.Commit(t, dir)
}

func (r *repository) run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "core.bare=false"}, args...)...)
	if dir != "" {
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_DIR="+r.git, "GIT_WORK_TREE="+dir)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
