package pipelines

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

// TestPreCommit installs the hooks as people do, from a repository at a commit, and commits.
func TestPreCommit(t *testing.T) {
	t.Parallel()
	preCommit := program.Find(t, "pre-commit", how)
	p := newProject(t)
	hooks := t.TempDir()
	p.must(t, ".", "install", "-D", "../../.pre-commit-hooks.yaml", filepath.Join(hooks, ".pre-commit-hooks.yaml"))
	p.must(t, ".", "install", "-D", "../../examples/pre-commit/verify.sh", filepath.Join(hooks, "examples/pre-commit/verify.sh"))
	p.git(t, hooks, "init", "-q", "-b", "main")
	p.git(t, hooks, "add", "-A")
	p.git(t, hooks, "commit", "-q", "-m", "hooks")
	p.env = append(slices.Clone(p.env), "PRE_COMMIT_HOME="+t.TempDir(), "TMPDIR="+t.TempDir())
	p.write(t, p.dir, ".pre-commit-config.yaml", "repos:\n  - repo: "+hooks+"\n    rev: "+p.git(t, hooks, "rev-parse", "HEAD")+
		"\n    hooks: [{id: meshless-verify}, {id: meshless-identities}]\n")
	p.must(t, p.dir, preCommit, "install")
	p.git(t, p.dir, "add", "-A")
	holds(t, "a good commit", p.git(t, p.dir, "commit", "-m", "hooks"), `age identities\.+Passed`)

	refused := func(says string) {
		t.Helper()
		p.git(t, p.dir, "add", "-A")
		out, err := p.run(t, p.dir, "git", "commit", "-m", "refused")
		if err == nil {
			t.Errorf("a commit passes that is to be refused with %q", says)
		}
		holds(t, "the hook", out, says)
		p.git(t, p.dir, "reset", "-q", "--hard")
	}
	p.edit(t, "shop/base/web.yaml", "name: web", "name: site")
	refused(`(?s)meshless verify\.+Failed.*acme-site.*meshless issue`)
	p.write(t, p.dir, "notes.txt", "the cluster's: "+p.ca.String()+"\n")
	refused(`(?s)age identities\.+Failed.*notes\.txt`)

	// what is in the index counts, and not the work tree
	p.edit(t, "shop/base/web.yaml", "shop:v0.1.0", "shop:v9")
	p.git(t, p.dir, "add", "-A")
	p.edit(t, "shop/base/web.yaml", "name: web", "name: site")
	holds(t, "a good commit", p.git(t, p.dir, "commit", "-m", "image"), `meshless verify\.+Passed`)
}
