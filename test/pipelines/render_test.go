package pipelines

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/program"
)

const branch = "rendered/shop"

func script(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../examples/flux/render.sh")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// render runs render.sh in a clone, which must go well.
func (p *project) render(t *testing.T, clone string, flags ...string) string {
	t.Helper()
	return p.must(t, clone, script(t), append(flags, "shop", branch)...)
}

// refuses runs render.sh, which must fail, say why and leave the branch alone.
func (p *project) refuses(t *testing.T, clone, why string, flags ...string) {
	t.Helper()
	before := p.refs(t)
	out, err := p.run(t, clone, script(t), append(flags, "shop", branch)...)
	if err == nil {
		t.Errorf("render.sh passes, and is to say %q:\n%s", why, out)
	}
	holds(t, "render.sh", out, why)
	if after := p.refs(t); after != before {
		t.Errorf("render.sh fails and pushes:\n%s\n%s", before, after)
	}
}

// refs are what the origin has.
func (p *project) refs(t *testing.T) string {
	t.Helper()
	return p.git(t, p.origin, "for-each-ref", "--format=%(refname) %(objectname)")
}

// rendered is the tip of the branch.
func (p *project) rendered(t *testing.T) string {
	t.Helper()
	return p.git(t, p.origin, "rev-parse", branch)
}

func (p *project) manifests(t *testing.T) string {
	t.Helper()
	return p.git(t, p.origin, "show", branch+":manifests.yaml")
}

// image is a commit that changes the image of the web.
func (p *project) image(t *testing.T, from, to string) string {
	t.Helper()
	p.edit(t, "shop/base/web.yaml", from, to)
	return p.commit(t, to)
}

// An older commit never overwrites a newer render: not by a slow run, not by a run that is repeated, and not where the
// newest commit changed nothing. A revert is a new commit, and passes.
func TestRenderKeepsTheOrder(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	first := p.git(t, p.dir, "rev-parse", "HEAD")
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	second := p.commit(t, "revoke")
	slow := p.clone(t, first)
	p.render(t, p.clone(t, second))
	holds(t, "the branch", p.manifests(t), "revoked")
	p.refuses(t, slow, second+" was rendered into rendered/shop, and HEAD, "+first+", does not contain it")
	message := p.git(t, p.origin, "log", "-1", "--format=%B", branch)
	holds(t, "the commit", message, "^Render shop/ at [0-9a-f]+\n\nSource-Commit: "+second+"\nSource-Folder: shop/$")

	third := p.image(t, "shop:v0.1.0", "shop:v9")
	p.git(t, p.dir, "revert", "--no-edit", "HEAD")
	fourth := p.commit(t, "back")
	before := p.rendered(t)
	clone := p.clone(t, fourth)
	for range 2 {
		holds(t, "render.sh", p.render(t, clone), "nothing changed")
	}
	if p.rendered(t) != before {
		t.Error("a commit that changes nothing has made one")
	}
	p.refuses(t, p.clone(t, third), fourth+" was rendered")
	fifth := p.image(t, "shop:v0.1.0", "shop:v9")
	p.render(t, p.clone(t, fifth))
	p.git(t, p.dir, "revert", "--no-edit", "HEAD")
	p.render(t, p.clone(t, p.commit(t, "back again")))
	if got := p.git(t, p.origin, "rev-parse", branch+"^{tree}"); got != p.git(t, p.origin, "rev-parse", before+"^{tree}") {
		t.Error("a revert is not rendered")
	}
}

// What verify --base refuses is refused: a new commit that takes a revocation back. Who has looked at the branch can
// render over what he has seen, and over nothing else.
func TestRenderRefusesWhatGoesBack(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	p.render(t, p.clone(t, "main"))
	old := p.rendered(t)
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	p.commit(t, "revoke")
	p.render(t, p.clone(t, "main"))
	seen := p.rendered(t)
	p.git(t, p.dir, "revert", "--no-edit", "HEAD")
	p.commit(t, "revert")
	clone := p.clone(t, "main")
	p.refuses(t, clone, `is revoked in the base(?s:.*)--over `+seen)
	p.refuses(t, clone, `rendered/shop is at `+seen+` now: look again`, "--over", old)
	holds(t, "render.sh --over", p.render(t, clone, "--over", seen), `is revoked in the base(?s:.*)goes on all the same`)
	holds(t, "render.sh", p.render(t, clone), "nothing changed")
	p.refuses(t, clone, "look again", "--over", seen)
}

// interrupt lets something happen in a clone between the checks of its next run and its push.
func (p *project) interrupt(t *testing.T, clone, command string) {
	t.Helper()
	hook := filepath.Join(clone, ".git/hooks/pre-push")
	p.write(t, clone, ".git/hooks/pre-push", "#!/bin/sh\nrm \"$0\"\nunset $(git rev-parse --local-env-vars)\nexec </dev/null\n"+command+"\n")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
}

// Of two runs at the same time the newer commit wins, in either order of pushes. The other one looks again.
func TestRenderAtTheSameTime(t *testing.T) {
	t.Parallel()
	for name, unchanged := range map[string]bool{"two changes": false, "the newer changes nothing": true} {
		for _, order := range []string{"newer first", "older first"} {
			t.Run(name+", "+order, func(t *testing.T) {
				t.Parallel()
				p := newProject(t)
				p.render(t, p.clone(t, "main"))
				older := p.image(t, "shop:v0.1.0", "shop:v8")
				newer := ""
				if unchanged {
					newer = p.image(t, "shop:v8", "shop:v0.1.0")
				} else {
					newer = p.image(t, "shop:v8", "shop:v9")
				}
				a, b := p.clone(t, older), p.clone(t, newer)
				if order == "newer first" {
					p.interrupt(t, a, "cd "+b+" && "+script(t)+" shop "+branch)
					if out, err := p.run(t, a, script(t), "shop", branch); err == nil || !strings.Contains(out, newer+" was rendered") || !strings.Contains(out, "try 1 of 5") {
						t.Errorf("the older run: %v\n%s", err, out)
					}
				} else {
					p.interrupt(t, b, "cd "+a+" && "+script(t)+" shop "+branch)
					holds(t, "the newer run", p.render(t, b), "try 1 of 5")
				}
				want := p.must(t, b, "meshless", "build", "shop")
				if p.manifests(t) != want {
					t.Error("the branch holds something else than the newer commit")
				}
			})
		}
	}
}

// Runs of many commits at once leave what the newest renders to.
func TestRenderCrowd(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	commits := []string{p.git(t, p.dir, "rev-parse", "HEAD")}
	for _, next := range []string{"v1", "v2"} {
		commits = append(commits, p.image(t, "shop:"+[]string{"v0.1.0", "v1"}[len(commits)-1], "shop:"+next))
	}
	done := make(chan error)
	for _, commit := range commits {
		clone := p.clone(t, commit)
		go func() {
			out, err := p.run(t, clone, script(t), "shop", branch)
			if err != nil && commit != commits[2] && strings.Contains(out, "does not contain it") {
				err = nil
			}
			if err != nil {
				t.Logf("%s: %v\n%s", commit, err, out)
			}
			done <- err
		}()
	}
	for range commits {
		if err := <-done; err != nil {
			t.Errorf("a run fails: %v", err)
		}
	}
	holds(t, "the branch", p.manifests(t), "shop:v2")
}

// A clone of depth one, as actions/checkout makes it, is deepened as far as it takes to tell.
func TestRenderInAShallowClone(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	p.history(t, 300)
	first := p.commit(t, "first")
	p.render(t, p.clone(t, first, "--depth=1"))
	p.history(t, 120)
	p.image(t, "shop:v0.1.0", "shop:v9")
	clone := p.clone(t, "main", "--depth=1")
	p.render(t, clone)
	if p.git(t, clone, "rev-parse", "--is-shallow-repository") != "true" {
		t.Error("the history of the branch was fetched as a whole")
	}
	holds(t, "the branch", p.git(t, p.origin, "rev-list", "--count", branch), "^2$")

	// of an older commit the clone is fetched as a whole before the run is refused
	p.git(t, p.dir, "push", "-q", "origin", first+":refs/heads/old")
	p.refuses(t, p.clone(t, "old", "--depth=1", "--branch=old"), "does not contain it")
	full := p.clone(t, "main")
	holds(t, "render.sh", p.render(t, full), "nothing changed")
	if p.git(t, full, "rev-parse", "--is-shallow-repository") != "false" {
		t.Error("a full clone became a shallow one")
	}
}

// history adds empty commits.
func (p *project) history(t *testing.T, commits int) {
	t.Helper()
	var stream strings.Builder
	for i := range commits {
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter ci <ci@example.com> %d +0000\ndata 4\nmore\n", time.Now().Unix()+int64(i))
		if i == 0 {
			stream.WriteString("from refs/heads/main^0\n")
		}
	}
	p.write(t, p.origin, "stream", stream.String())
	p.must(t, p.dir, "sh", "-c", `git fast-import --quiet < "$1/stream"`, "sh", p.origin)
}

// Somebody rewrites the history of the source, or the branch.
func TestRenderAfterRewrites(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	first := p.git(t, p.dir, "rev-parse", "HEAD")
	p.render(t, p.clone(t, "main"))
	good := p.rendered(t)
	p.image(t, "shop:v0.1.0", "shop:v9")
	p.render(t, p.clone(t, "main"))

	// the branch goes back by hand: older commits are still refused, and the newest heals it
	p.git(t, p.dir, "push", "-q", "--force", "origin", "+"+p.fetched(t, good)+":refs/heads/"+branch)
	p.refuses(t, p.clone(t, first), "does not contain it")
	p.render(t, p.clone(t, "main"))
	holds(t, "the branch", p.manifests(t), "shop:v9")

	// it is deleted
	p.git(t, p.dir, "push", "-q", "origin", ":refs/heads/"+branch)
	p.refuses(t, p.clone(t, first), "does not contain it")
	p.render(t, p.clone(t, "main"))
	holds(t, "the branch", p.manifests(t), "shop:v9")

	// somebody commits to it
	hand := p.clone(t, branch, "--branch="+branch)
	p.write(t, hand, "manifests.yaml", "kind: List\n")
	p.git(t, hand, "commit", "-qam", "by hand")
	p.git(t, hand, "push", "-q", "origin", "HEAD:refs/heads/"+branch)
	p.refuses(t, p.clone(t, "main"), "no commit of render.sh: somebody wrote it")
	p.render(t, p.clone(t, "main"), "--over", p.rendered(t))
	holds(t, "render.sh", p.render(t, p.clone(t, "main")), "nothing changed")

	// the source is force-pushed
	p.git(t, p.dir, "commit", "-q", "--amend", "-m", "rewritten")
	p.commit(t, "more")
	p.refuses(t, p.clone(t, "main", "--depth=1"), "the history of the source was rewritten")
	p.refuses(t, p.clone(t, "main"), "the history of the source was rewritten")
	p.render(t, p.clone(t, "main"), "--over", p.rendered(t))
	holds(t, "render.sh", p.render(t, p.clone(t, "main")), "nothing changed")

	// another folder goes into the same branch
	p.git(t, p.dir, "mv", "shop", "store")
	p.commit(t, "another folder")
	out, err := p.run(t, p.clone(t, "main"), script(t), "store", branch)
	if err == nil {
		t.Error("another folder is rendered into the branch")
	}
	holds(t, "render.sh", out, "holds what shop/ renders to, and this is store/")
}

// fetched is a commit of the origin, in the project's own clone.
func (p *project) fetched(t *testing.T, commit string) string {
	t.Helper()
	p.git(t, p.dir, "fetch", "-q", "origin", commit)
	return commit
}

// A run that fails, or that is ended, leaves nothing behind and pushes nothing.
func TestRenderLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	clone, temp := p.clone(t, "main"), t.TempDir()
	p.env = append(p.env, "RUNNER_TEMP="+temp)
	clean := func(what string) {
		t.Helper()
		if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left (%v)", what, left, err)
		}
		if status := p.git(t, clone, "status", "--porcelain"); status != "" {
			t.Errorf("%s: the work tree has changed: %s", what, status)
		}
		if refs := p.refs(t); strings.Contains(refs, "shop") {
			t.Errorf("%s: pushed %s", what, refs)
		}
	}
	for what, command := range map[string]string{"exit status 7": "echo kind: List; exit 7", "wants manifests": "true", "is not in the mesh": "cat shop/base/web.yaml"} {
		out, err := p.run(t, clone, script(t), "shop", branch, "sh", "-c", command)
		if err == nil {
			t.Errorf("%s passes:\n%s", command, out)
		}
		clean(what)
	}
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if signal.Ignored(end) { // a shell's background job ignores SIGINT, and so does what it starts
			continue
		}
		p.signalled(t, clone, end)
		clean(end.String())
	}
	p.write(t, clone, "shop/more.yaml", "kind: List\n")
	p.refuses(t, clone, "the work tree is not what HEAD says")
	if err := os.Remove(filepath.Join(clone, "shop/more.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{}, {"shop"}, {"--over"}, {"--force", "shop", branch}} {
		if out, err := p.run(t, clone, script(t), args...); err == nil || !strings.HasPrefix(out, "usage: ") {
			t.Errorf("render.sh %v: %v\n%s", args, err, out)
		}
	}
	if out, err := p.run(t, clone, script(t), "missing", branch); err == nil || !strings.HasPrefix(out, "render.sh: missing: is no folder") {
		t.Errorf("%v\n%s", err, out)
	}
	p.render(t, clone)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// signalled runs render.sh with a command that waits, and ends the script with a signal.
func (p *project) signalled(t *testing.T, clone string, signal syscall.Signal) {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), script(t), "shop", branch, "sh", "-c", "echo kind: List; echo ready >"+fifo+"; cat "+fifo)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = clone, p.env, &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(fifo); err != nil { // until the command has written to it
		t.Fatal(err)
	}
	if err := syscall.Kill(-cmd.Process.Pid, signal); err != nil { // the group, as a runner and a terminal do
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("%v: render.sh ends well", signal)
	}
}

// Whatever prints the manifests can render: kustomize with its flags, and a stream such as that of a chart, whose
// folder of state is what is held against the branch.
func TestRenderByAnyCommand(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	clone := p.clone(t, "main")
	p.render(t, clone)
	want := p.manifests(t)
	kustomize := []string{program.Kustomize(t), "build", "--enable-alpha-plugins", "--enable-exec", "shop"}
	holds(t, "kustomize", p.must(t, clone, script(t), append([]string{"shop", branch}, kustomize...)...), "nothing changed")

	// what a chart prints, and its state
	stream := "meshless strip manifests.yaml | meshless render --config shop/mtls.yaml --state shop/mtls -"
	p.write(t, p.dir, "manifests.yaml", want+"\n")
	p.commit(t, "a stream")
	other := []string{"shop/mtls", "rendered/stream", "sh", "-euc", stream}
	p.must(t, p.clone(t, "main"), script(t), other...)
	holds(t, "the stream", p.git(t, p.origin, "show", "rendered/stream:manifests.yaml"), "name: meshless-proxy")
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	p.commit(t, "revoke")
	p.must(t, p.clone(t, "main"), script(t), other...)
	p.git(t, p.dir, "revert", "--no-edit", "HEAD")
	p.commit(t, "revert")
	out, err := p.run(t, p.clone(t, "main"), script(t), other...)
	if err == nil {
		t.Error("a revocation of a stream is taken back")
	}
	holds(t, "render.sh", out, "is revoked in the base")

	// further flags of verify: the render refuses what they refuse
	p.env = append(p.env, "VERIFY_FLAGS=--no-exclusions --min-left 100000h")
	out, err = p.run(t, clone, script(t), "shop", branch)
	if err == nil {
		t.Error("VERIFY_FLAGS are not heard")
	}
	holds(t, "render.sh", out, "100000h")
}
