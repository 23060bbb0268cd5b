package consumers

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// need skips a test whose surroundings are missing (program.Missing).
func need(t *testing.T, what string, there bool) {
	t.Helper()
	if !there {
		program.Missing(t, "%s", what)
	}
}

func needImage(t *testing.T) {
	t.Helper()
	need(t, "Docker with the image "+api.FnImage+" (make images)", exec.Command("docker", "image", "inspect", api.FnImage).Run() == nil)
}

func needKpt(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("kpt")
	need(t, "kpt", err == nil)
}

// kpt runs kpt and returns what it printed; without a network it must not look for newer images.
func kpt(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "kpt", args...)
	cmd.Env = program.WithMeshless(t)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustKpt(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kpt(t, args...)
	if err != nil {
		t.Fatalf("kpt %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// files are the contents of a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	contents := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		contents[strings.TrimPrefix(path, dir)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

// The image, run by kustomize through Docker as nobody and without network, renders what the binary renders.
func TestKustomizeRunsTheImage(t *testing.T) {
	needImage(t)
	for _, name := range []string{"pod", "shop"} {
		t.Run(name, func(t *testing.T) {
			e := example.Copy(t, "../../examples/"+name)
			e.Issue(t, time.Now())
			byBinary := e.Render(t)
			e.Containerize(t)
			if diff := cmp.Diff(byBinary, e.Render(t)); diff != "" {
				t.Errorf("image and binary render differently:\n%s", diff)
			}
			e.Verify(t, byBinary)
		})
	}
}

// kpt renders a package in place; a second time changes nothing, by the image or by the binary.
func TestKptRendersThePackage(t *testing.T) {
	needImage(t)
	needKpt(t)
	for _, name := range []string{"pod", "shop"} {
		t.Run(name, func(t *testing.T) {
			e := example.Copy(t, "../../examples/"+name)
			mustKpt(t, "fn", "render", e.Dir)
			first := files(t, e.Dir)
			if _, ok := first["/mtls/ca.yaml"]; !ok {
				t.Error("no CertificateAuthority was written")
			}
			e.VerifyDir(t)
			mustKpt(t, "fn", "render", e.Dir)
			if diff := cmp.Diff(first, files(t, e.Dir)); diff != "" {
				t.Errorf("a second kpt fn render changes the package:\n%s", diff)
			}
			mustKpt(t, "fn", "eval", "--exec", program.Meshless(t), "--fn-config", filepath.Join(e.Dir, "mtls.yaml"), e.Dir)
			e.IssuePackage(t, time.Now())
			if diff := cmp.Diff(first, files(t, e.Dir)); diff != "" {
				t.Errorf("the binary changes what the image rendered:\n%s", diff)
			}
		})
	}
}

func TestKptRunsTheBinary(t *testing.T) {
	needKpt(t)
	e := example.Copy(t, "../../examples/shop")
	mustKpt(t, "fn", "eval", "--exec", program.Meshless(t), "--fn-config", filepath.Join(e.Dir, "mtls.yaml"), e.Dir)
	e.VerifyDir(t)
}

// An error fails kpt, and the package stays as it was.
func TestKptKeepsThePackageOnError(t *testing.T) {
	needImage(t)
	needKpt(t)
	e := example.Copy(t, "../../examples/pod")
	e.Edit(t, "pod.yaml", func(s string) string {
		return strings.Replace(s, "image: bash", "image: bash\n      securityContext: {runAsUser: 15000}", 1)
	})
	before := files(t, e.Dir)
	out, err := kpt(t, "fn", "render", e.Dir)
	if err == nil || !strings.Contains(out, "which is the proxy's") {
		t.Errorf("kpt fn render: %v\n%s", err, out)
	}
	if diff := cmp.Diff(before, files(t, e.Dir)); diff != "" {
		t.Errorf("a failed render changed the package:\n%s", diff)
	}
}

// The repository itself is a kpt package whose subpackages are the examples.
func TestKptRendersTheRepository(t *testing.T) {
	needImage(t)
	needKpt(t)
	top := t.TempDir()
	tracked, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.Trim(string(tracked), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, top)
	mustKpt(t, "fn", "render", top)
	first := files(t, top)
	for name := range first {
		if first[name] != before[name] && !strings.HasPrefix(name, "/examples/") {
			t.Errorf("kpt fn render changes %s", name)
		}
	}
	if first["/examples/pod/pod.yaml"] == before["/examples/pod/pod.yaml"] {
		t.Error("kpt fn render did not render examples/pod")
	}
	mustKpt(t, "fn", "render", top)
	if diff := cmp.Diff(first, files(t, top)); diff != "" {
		t.Errorf("a second kpt fn render changes the repository:\n%s", diff)
	}
}
