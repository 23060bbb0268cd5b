package pipelines

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// project is a repository with the shop in its folder shop, its first certificates among its commits, and its origin.
type project struct {
	dir, origin string
	ca          *age.X25519Identity
	env         []string // of every command
}

func newProject(t *testing.T) *project {
	t.Helper()
	e := example.Copy(t, "../../examples/shop")
	p := &project{dir: filepath.Dir(e.Dir), origin: filepath.Join(t.TempDir(), "origin.git"), ca: example.NewIdentity(t)}
	recipients := 0
	e.Edit(t, "mtls.yaml", func(text string) string {
		return regexp.MustCompile(`age1[a-z0-9]{20,}`).ReplaceAllStringFunc(text, func(recipient string) string {
			if recipients++; recipients == 2 { // the CA's, whose identity the tests give to CI
				return p.ca.Recipient().String()
			}
			return recipient
		})
	})
	p.env = append(program.WithMeshless(t), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "CI=",
		"GIT_AUTHOR_NAME=ci", "GIT_AUTHOR_EMAIL=ci@example.com", "GIT_COMMITTER_NAME=ci", "GIT_COMMITTER_EMAIL=ci@example.com")
	p.git(t, p.dir, "init", "-q", "--bare", "-b", "main", p.origin)
	p.git(t, p.dir, "init", "-q", "-b", "main")
	p.git(t, p.dir, "remote", "add", "origin", "file://"+p.origin)
	p.must(t, p.dir, "meshless", "issue", "shop")
	p.commit(t, "the shop")
	return p
}

// run runs a command in a folder, and returns all that it printed.
func (p *project) run(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	if resolved := p.lookup(name); resolved != "" {
		cmd.Path, cmd.Err = resolved, nil
	}
	cmd.Dir, cmd.Env = dir, append(slices.Clone(p.env), "MESHLESS_CA_IDENTITY="+p.ca.String())
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// lookup finds a program on the PATH of the project, which has meshless on it.
func (p *project) lookup(name string) string {
	for _, entry := range p.env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok && !strings.Contains(name, "/") {
			for _, folder := range filepath.SplitList(path) {
				if found, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
					return found
				}
			}
		}
	}
	return ""
}

func (p *project) must(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	out, err := p.run(t, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (p *project) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return p.must(t, dir, "git", args...)
}

// edit replaces a text in a file of the project.
func (p *project) edit(t *testing.T, file, old, with string) {
	t.Helper()
	path := filepath.Join(p.dir, file)
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("%s does not hold %q (%v)", file, old, err)
	}
	p.write(t, p.dir, file, strings.ReplaceAll(string(text), old, with))
}

func (p *project) write(t *testing.T, dir, file, text string) {
	t.Helper()
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// commit commits all, pushes it to main, and returns it.
func (p *project) commit(t *testing.T, message string) string {
	t.Helper()
	p.git(t, p.dir, "add", "-A")
	p.git(t, p.dir, "commit", "-q", "--allow-empty", "-m", message)
	p.git(t, p.dir, "push", "-q", "--force", "origin", "HEAD:main")
	return p.git(t, p.dir, "rev-parse", "HEAD")
}

// clone is a clone of the origin at a commit, as a runner has it.
func (p *project) clone(t *testing.T, commit string, flags ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "clone")
	p.git(t, p.dir, append(append([]string{"clone", "-q", "--no-checkout"}, flags...), "file://"+p.origin, dir)...)
	p.git(t, dir, "checkout", "-q", "--detach", commit)
	return dir
}

// holds tells whether a text holds a pattern, and fails the test where it does not.
func holds(t *testing.T, what, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%s lacks %q:\n%s", what, pattern, text[max(0, len(text)-3000):])
	}
}
