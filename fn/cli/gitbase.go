package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// isPath tells a folder from a revision: no name in Git begins so.
func isPath(base string) bool {
	return base == "." || base == ".." || strings.HasPrefix(base, "./") || strings.HasPrefix(base, "../") || filepath.IsAbs(base)
}

// checkOut writes the whole tree of a revision below top, since a kustomization may have bases anywhere in it, and
// returns where a folder of the work tree is there; "" where it is not. Neither the index nor the work tree changes.
// What git archive writes lacks files with the attribute export-ignore.
func checkOut(dir, revision, top string) (folder string, err error) {
	prefix, err := git(dir, "rev-parse", "--show-prefix")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("--base: a revision needs git in the PATH; install it, or give a folder, which begins with ./, ../ or /")
	case err != nil:
		return "", fmt.Errorf("%s: is in no work tree of Git (%w); give --base a folder, which begins with ./, ../ or /", dir, err)
	}
	commit, err := resolveRevision(dir, revision)
	if err != nil {
		return "", err
	}
	work, err := git(dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return "", err
	}
	index, err := os.MkdirTemp("", "meshless-index-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(index)
	// git takes this for its index, instead of the user's
	in := func(args ...string) (string, error) {
		return gitWith([]string{"GIT_INDEX_FILE=" + filepath.Join(index, "index")}, work, args...)
	}
	if _, err = in("read-tree", commit); err == nil {
		_, err = in("checkout-index", "--all", "--prefix="+filepath.ToSlash(top)+"/")
	}
	if err != nil {
		return "", fmt.Errorf("--base %s: cannot be checked out: %w", revision, err)
	}
	if folder = filepath.Join(top, prefix); !isFolder(folder) {
		return "", nil
	}
	return folder, nil
}

// resolveRevision is the commit of a revision; REV... is where it and HEAD parted, as on the page of a pull request.
func resolveRevision(dir, revision string) (commit string, err error) {
	if from, forked := strings.CutSuffix(revision, "..."); forked {
		if commit, err = resolveRevision(dir, from); err != nil {
			return "", err
		}
		if commit, err = git(dir, "merge-base", commit, "HEAD"); err != nil {
			return "", fmt.Errorf("--base %s: HEAD and %s have no commit in common here; a shallow clone lacks it: git fetch --unshallow", revision, from)
		}
		return commit, nil
	}
	if commit, err = git(dir, "rev-parse", "--verify", "--quiet", "--end-of-options", revision+"^{commit}"); err != nil {
		return "", fmt.Errorf("--base: %q is no revision here; fetch it (git fetch origin BRANCH), or give a folder, which begins with ./, ../ or /", revision)
	}
	return commit, nil
}

func git(dir string, args ...string) (string, error) { return gitWith(nil, dir, args...) }

// gitWith is what git prints, with more variables in its environment. It asks nobody for anything.
func gitWith(environment []string, dir string, args ...string) (string, error) {
	var out, failure bytes.Buffer
	cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(append(os.Environ(), "GIT_TERMINAL_PROMPT=0"), environment...)
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		if text := strings.Join(strings.Fields(failure.String()), " "); text != "" {
			return "", errors.New(text)
		}
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}
