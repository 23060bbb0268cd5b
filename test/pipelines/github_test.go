package pipelines

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/test/program"
)

const how = "test/pipelines/programs.sh"

// stands are the stand-ins of the actions that GitHub would download, as the repositories and commits that our
// workflows name.
var stands = map[string]string{
	// as the real one: one commit, or with fetch-depth 0 all branches; a branch is checked out by name, a run's commit
	// without one
	"actions/checkout@11d5960a326750d5838078e36cf38b85af677262": `
name: checkout
inputs: {ref: {default: ""}, fetch-depth: {default: "1"}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {REF: "${{ inputs.ref }}", DEPTH: "${{ inputs.fetch-depth }}"}
      run: |
        git init -q .
        git remote add origin "$TEST_ORIGIN"
        case $DEPTH in 0) git fetch -q origin ;; *) git fetch -q --depth="$DEPTH" origin "${REF:-$TEST_SHA}" ;; esac
        if [ -n "$REF" ]; then git checkout -q -B "$REF" "$(git rev-parse -q --verify "origin/$REF" || echo FETCH_HEAD)"
        else git checkout -q --detach "$TEST_SHA"; fi
`,
	"actions/setup-go@40f1582b2485089dde7abd97c1529aa768e1baff": `
name: setup-go
inputs: {go-version: {}, go-version-file: {}, cache: {}}
runs: {using: composite, steps: [{shell: bash, run: 'go version; if [ -n "$FILE" ]; then test -f "$FILE"; fi', env: {FILE: "${{ inputs.go-version-file }}"}}]}
`,
}

// tools are programs of a runner's PATH: a go whose install brings the meshless of these tests, since no proxy of
// modules has it, and a gh that notes what it is told.
func tools(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go": "case $1 in install) exec install -D \"" + program.Meshless(t) + "\" \"$GOBIN/meshless\";; esac\nexec \"" + real + "\" \"$@\"\n",
		"gh": "echo gh \"$@\" >> \"" + dir + "/gh.log\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// act runs a workflow on this machine, as a run of a commit of the project.
func (p *project) act(t *testing.T, event, payload, commit, workflow string, flags ...string) (string, error) {
	t.Helper()
	act := program.Find(t, "act", how)
	work, home := t.TempDir(), t.TempDir()
	p.write(t, work, ".github/workflows/it.yaml", workflow)
	p.write(t, work, "event.json", payload)
	p.git(t, work, "init", "-q", "-b", "main")
	p.git(t, work, "add", "-A")
	p.git(t, work, "commit", "-q", "-m", "it")
	p.git(t, work, "remote", "add", "origin", "https://github.com/acme/shop.git")
	args := []string{event, "-P", "ubuntu-24.04=-self-hosted", "--no-cache-server", "--no-skip-checkout", "--action-offline-mode",
		"-W", ".github/workflows/it.yaml", "-e", "event.json", "--env", "TEST_ORIGIN=file://" + p.origin, "--env", "TEST_SHA=" + commit, "--env", "CI=true"}
	for name, text := range stands {
		dir := filepath.Join(home, strings.ReplaceAll(name, "/", "+"))
		p.write(t, dir, "action.yml", text)
		args = append(args, "--local-repository", name+"="+dir)
	}
	cmd := exec.CommandContext(t.Context(), act, append(args, flags...)...)
	cmd.Dir = work
	cmd.Env = append(slices.Clone(p.env), "HOME="+home, "XDG_CACHE_HOME="+home, "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"))
	for i, entry := range cmd.Env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok { // without meshless, which the workflow is to bring
			cmd.Env[i] = "PATH=" + tools(t) + string(os.PathListSeparator) + strings.TrimPrefix(path, filepath.Dir(program.Meshless(t))+string(os.PathListSeparator))
		}
	}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), p.ca.String()) {
		t.Error("the log holds the CA's identity")
	}
	return string(out), err
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func text(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// ours is examples/flux/ci/github.yaml with the script where the project has it.
func (p *project) ours(t *testing.T) string {
	t.Helper()
	workflow := text(t, "../../examples/flux/ci/github.yaml")
	if !strings.Contains(workflow, " examples/flux/render.sh ") {
		t.Fatal("the workflow does not call examples/flux/render.sh")
	}
	return strings.ReplaceAll(workflow, " examples/flux/render.sh ", " "+script(t)+" ")
}

// TestWorkflowsLint: actionlint knows the syntax of workflows, the inputs of actions and the types of expressions.
func TestWorkflowsLint(t *testing.T) {
	t.Parallel()
	for _, file := range []string{".github/workflows/ci.yml", "examples/flux/ci/github.yaml", "examples/workflow/renew.yaml"} {
		cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=tools/go.mod", "actionlint", file)
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// TestPermissions: who only reads may only read, and two runs that write do not run at the same time.
func TestPermissions(t *testing.T) {
	for file, writes := range map[string]map[string]string{
		"examples/flux/ci/github.yaml": {"render": "contents"},
		"examples/workflow/renew.yaml": {"renew": "contents pull-requests", "verify": ""},
		".github/workflows/ci.yml":     {"lint": "", "unit": "", "kernel": "", "programs": "", "attack": "", "cluster": ""},
	} {
		var workflow struct {
			Permissions map[string]string
			Concurrency any
			Jobs        map[string]struct {
				Permissions map[string]string
				Concurrency any
				Timeout     int `json:"timeout-minutes"`
			}
		}
		if err := yaml.Unmarshal([]byte(text(t, "../../"+file)), &workflow); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(workflow.Permissions) != 1 || workflow.Permissions["contents"] != "read" {
			t.Errorf("%s: a job may by default %v", file, workflow.Permissions)
		}
		for name, job := range workflow.Jobs {
			want, known := writes[name]
			granted := slices.Sorted(maps.Keys(job.Permissions))
			if strings.Join(granted, " ") != want || !known {
				t.Errorf("%s: %s may write %v, and is to write %q", file, name, granted, want)
			}
			if job.Concurrency == nil && workflow.Concurrency == nil || job.Timeout == 0 {
				t.Errorf("%s: %s has no concurrency or no timeout-minutes", file, name)
			}
		}
	}
}

// The workflow renders the newest commit of main, whichever commit a run is of.
func TestGitHubRenders(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	first := p.git(t, p.dir, "rev-parse", "HEAD")
	p.history(t, 3)
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	second := p.commit(t, "revoke")
	for _, commit := range []string{second, first} { // the second run is one of an old commit, repeated
		out, err := p.act(t, "push", `{"ref": "refs/heads/main"}`, commit, p.ours(t))
		if err != nil {
			t.Fatalf("act: %v\n%s", err, out)
		}
		holds(t, "the branch", p.git(t, p.origin, "log", "-1", "--format=%B", branch), "Source-Commit: "+second)
	}
	p.git(t, p.dir, "revert", "--no-edit", "HEAD")
	third := p.commit(t, "revert")
	out, err := p.act(t, "push", `{"ref": "refs/heads/main"}`, third, p.ours(t))
	if err == nil {
		t.Error("a revocation is taken back")
	}
	holds(t, "the log", out, "is revoked in the base")
	over := p.rendered(t)
	out, err = p.act(t, "workflow_dispatch", `{"ref": "refs/heads/main", "inputs": {"over": "`+over+`"}}`, third, p.ours(t))
	if err != nil {
		t.Fatalf("act: %v\n%s", err, out)
	}
	holds(t, "the log", out, "goes on all the same")
}

// The workflow of renewal, as GitHub would read it as a whole: what a person changed is renewed, a revert is refused.
func TestGitHubRenews(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	workflow := text(t, "../../examples/workflow/renew.yaml")
	schedule := func(main string, want bool) string {
		t.Helper()
		out, err := p.act(t, "schedule", `{}`, main, workflow, "-s", "MESHLESS_CA_IDENTITY="+p.ca.String())
		if (err == nil) != want {
			t.Fatalf("act: %v\n%s", err, out)
		}
		return out
	}
	main := p.git(t, p.dir, "rev-parse", "HEAD")
	holds(t, "the log", schedule(main, true), "nothing is due")
	p.edit(t, "shop/base/web.yaml", "name: web", "name: site")
	p.edit(t, "shop/base/kustomization.yaml", "web.yaml", "web.yaml") // which names files, and is as it was
	main = p.commit(t, "another workload")
	schedule(main, false) // main holds no certificate of it: the last step says so
	holds(t, "the branch", p.git(t, p.origin, "show", "--stat", "meshless/renew"), "deployment-acme-site.yaml")

	pull := func(commit string, want bool) string {
		t.Helper()
		out, err := p.act(t, "pull_request", `{"pull_request": {"base": {"ref": "main"}, "head": {"ref": "renew"}}}`, commit, workflow)
		if (err == nil) != want {
			t.Fatalf("act: %v\n%s", err, out)
		}
		return out
	}
	pull(p.git(t, p.origin, "rev-parse", "meshless/renew"), true)
	holds(t, "the log", pull(main, false), "acme-site")
}

// The action, as a step of others: it builds the meshless of its own commit, and does each of its commands.
func TestAction(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	const commit = "0123456789012345678901234567890123456789"
	run := func(event, payload, sha, steps string) (string, error) {
		t.Helper()
		workflow := "on: {push: {}, pull_request: {}}\njobs:\n  it:\n    runs-on: ubuntu-24.04\n    steps:\n" +
			"      - uses: actions/checkout@11d5960a326750d5838078e36cf38b85af677262\n" + strings.ReplaceAll(steps, "ACTION", "meshless-dev/meshless@"+commit)
		return p.act(t, event, payload, sha, workflow, "--local-repository", "meshless-dev/meshless@"+commit+"="+actionFiles(t, root), "-s", "CA="+p.ca.String())
	}
	main := p.git(t, p.dir, "rev-parse", "HEAD")
	out, err := run("push", `{"ref": "refs/heads/main"}`, main, `
      - uses: ACTION
        with: {command: verify, dir: shop}
      - {uses: ACTION, id: issue, with: {command: issue, dir: shop, ca-identity: "${{ secrets.CA }}"}}
      - {uses: ACTION, id: first, with: {command: render, dir: shop, branch: rendered/shop}}
      - {uses: ACTION, id: second, with: {command: render, dir: shop, branch: rendered/shop, manifests: "echo by hand >&2; meshless build shop"}}
      - run: echo issue ${{ steps.issue.outputs.changed }}, first ${{ steps.first.outputs.changed }}, second ${{ steps.second.outputs.changed }}
`)
	if err != nil {
		t.Fatalf("act: %v\n%s", err, out)
	}
	holds(t, "the log", out, "issue false, first true, second false")
	holds(t, "the log", out, "by hand")
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	p.commit(t, "revoke")
	pull := `{"pull_request": {"base": {"ref": "main"}, "head": {"ref": "old"}}}`
	verify := "      - {uses: ACTION, with: {command: verify, dir: shop}}\n"
	out, err = run("pull_request", pull, main, verify)
	if err == nil {
		t.Error("a pull request behind main passes")
	}
	holds(t, "the log", out, "is revoked in the base")
	out, err = run("push", `{}`, main, "      - {uses: ACTION, with: {command: deploy, dir: shop}}\n")
	if err == nil {
		t.Error("a command that there is not passes")
	}
	holds(t, "the log", out, "is none of verify, issue and render")
}

// actionFiles is what GitHub unpacks of a commit: the files of the work tree.
func actionFiles(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", fmt.Sprintf(
		`cd %q; git ls-files -z -c -o --exclude-standard -- action.yml go.mod go.sum cmd fn internal examples/flux | tar -c --null -T - | tar -x -C %q`, root, dir)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}
