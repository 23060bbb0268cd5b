package pipelines

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

const gitlabURL = "git@gitlab.com:acme/shop.git"

// gitlab runs a job of the template at a commit, in a clone whose origin looks like GitLab's. gitlab-ci-local checks
// the file against GitLab's JSON schema first.
func (p *project) gitlab(t *testing.T, source, commit, job string, variables ...string) (string, error) {
	t.Helper()
	local := program.Find(t, "gitlab-ci-local", how)
	dir, home := p.clone(t, commit), t.TempDir()
	p.git(t, dir, "checkout", "-q", "-B", "main", commit) // which jobs there are depends on the branch
	p.git(t, dir, "remote", "set-url", "origin", gitlabURL)
	p.write(t, dir, ".gitlab-ci.yml", "include: [{local: meshless.gitlab-ci.yml}]\n")
	p.write(t, dir, "meshless.gitlab-ci.yml", text(t, "../../examples/gitlab/meshless.gitlab-ci.yml"))
	p.write(t, home, "ssh", "#!/bin/sh\nexec sh -c \"$(echo \"$2\" | sed 's|acme/shop.git|"+p.origin+"|')\"\n") // ssh HOST COMMAND
	p.write(t, home, "tmp/x", "")
	if err := os.Chmod(filepath.Join(home, "ssh"), 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"--force-shell-executor", "--variable", "CI_PIPELINE_SOURCE=" + source, "--variable", "MESHLESS_PUSH_URL=" + gitlabURL}
	if job != "meshless-verify" { // once is enough: it takes seconds
		args = append(args, "--no-json-schema-validation")
	}
	for _, variable := range variables {
		args = append(args, "--variable", variable)
	}
	cmd := exec.CommandContext(t.Context(), local, append(args, job)...)
	cmd.Dir = dir
	cmd.Env = append(slices.Clone(p.env), "HOME="+home, "TMPDIR="+filepath.Join(home, "tmp"), "GIT_SSH_COMMAND="+filepath.Join(home, "ssh"), "GIT_SSH_VARIANT=simple",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=core.excludesFile", "GIT_CONFIG_VALUE_0="+filepath.Join(home, "ignore"))
	p.write(t, home, "ignore", ".gitlab-ci*\nmeshless.gitlab-ci.yml\n")
	for i, entry := range cmd.Env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			cmd.Env[i] = "PATH=" + tools(t) + string(os.PathListSeparator) + strings.TrimPrefix(path, filepath.Dir(program.Meshless(t))+string(os.PathListSeparator))
		}
	}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), p.ca.String()) {
		t.Error("the log holds the CA's identity")
	}
	return string(out), err
}

// TestGitLab runs the jobs of the template: what is merged is rendered, of the newest commit; a merge request behind
// main is refused; what is due becomes a merge request, by push options.
func TestGitLab(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	p.git(t, p.origin, "config", "receive.advertisePushOptions", "true")
	p.write(t, p.origin, "hooks/pre-receive", "#!/bin/sh\nenv | grep ^GIT_PUSH_OPTION_ >> options || true\n")
	if err := os.Chmod(filepath.Join(p.origin, "hooks/pre-receive"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.write(t, p.dir, "examples/flux/render.sh", text(t, script(t)))
	if err := os.Chmod(filepath.Join(p.dir, "examples/flux/render.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(want bool, says, source, commit, job string, variables ...string) {
		t.Helper()
		out, err := p.gitlab(t, source, commit, job, variables...)
		if (err == nil) != want {
			t.Fatalf("%s at %s: %v\n%s", job, commit, err, out)
		}
		holds(t, job, out, says)
	}
	secrets := t.TempDir()
	p.write(t, secrets, "ca.txt", p.ca.String()+"\n")
	ca := "MESHLESS_CA_IDENTITY_FILE=" + filepath.Join(secrets, "ca.txt")
	first := p.commit(t, "render.sh")
	run(true, "nothing is due", "schedule", first, "meshless-renew", ca)
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	second := p.commit(t, "revoke")
	run(true, "rendered/shop: ", "push", first, "meshless-render") // a job that somebody repeats
	holds(t, "the branch", p.git(t, p.origin, "log", "-1", "--format=%B", branch), "Source-Commit: "+second)
	run(true, "nothing changed", "push", second, "meshless-render")
	target := "CI_MERGE_REQUEST_TARGET_BRANCH_NAME=main"
	run(true, "ok: 14 objects", "merge_request_event", second, "meshless-verify", target)
	run(false, "is revoked in the base", "merge_request_event", first, "meshless-verify", target)

	p.edit(t, "shop/base/web.yaml", "name: web", "name: site")
	third := p.commit(t, "another workload")
	run(false, "acme-site", "schedule", third, "meshless-renew", ca) // main lacks a certificate: its last line says so
	holds(t, "the request", p.git(t, p.origin, "show", "--stat", "meshless/renew"), "deployment-acme-site.yaml")
	options := text(t, filepath.Join(p.origin, "options"))
	for _, want := range []string{"=merge_request.create\n", "=merge_request.target=main\n", "=merge_request.title=shop: renew certificates\n"} {
		holds(t, "the push options", options, want)
	}
	run(false, "meshless/renew waits for a review", "schedule", third, "meshless-renew", ca)
}
