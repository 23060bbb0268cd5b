// Package reproducible_test builds the programs a second time, elsewhere, and wants the same bytes: whoever has the
// source can so tell what a release was made of, whatever machine or base image made it.
package reproducible_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/program"
)

const root = "../.."

// programs are those of a release, with the target of the Dockerfile and the path in its image.
var programs = map[string]string{"meshless": "fn", "meshless-proxy": "proxy", "meshless-init": "init"}

// TestBuilds: two builds from two folders, with caches, homes, time zones, umasks and file times of their own, give the
// same bytes; and so does the image, whose toolchain is that of its base.
func TestBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles everything anew, which takes minutes")
	}
	first := build(t, filepath.Join(t.TempDir(), "a"), time.Unix(1_000_000_000, 0), "TZ=UTC", "LANG=C")
	second := build(t, filepath.Join(t.TempDir(), "another folder", "deep", "er"), time.Now(), "TZ=Asia/Kolkata", "LANG=C.UTF-8",
		"GOCACHE="+t.TempDir(), "HOME="+t.TempDir(), "GOMODCACHE="+output(t, "go", "env", "GOMODCACHE"))
	for name := range programs {
		one, other := read(t, filepath.Join(first, "bin", name)), read(t, filepath.Join(second, "bin", name))
		if !bytes.Equal(one, other) {
			t.Errorf("%s: two builds differ: %x and %x, %d and %d bytes", name, sha256.Sum256(one), sha256.Sum256(other), len(one), len(other))
		}
		if cache := output(t, "go", "env", "GOMODCACHE"); bytes.Contains(one, []byte(first)) || bytes.Contains(one, []byte(cache)) {
			t.Errorf("%s: holds a path of the machine that built it", name)
		}
	}
	t.Run("image", func(t *testing.T) {
		needDocker(t)
		for name, target := range programs {
			if inImage := fromImage(t, second, target, name); !bytes.Equal(inImage, read(t, filepath.Join(first, "bin", name))) {
				t.Errorf("%s: the image of target %s holds another program: %d bytes", name, target, len(inImage))
			}
		}
	})
}

// build copies the files that Git knows to a folder, and runs `make build` there.
func build(t *testing.T, folder string, at time.Time, env ...string) string {
	t.Helper()
	for file := range strings.SplitSeq(strings.TrimSuffix(output(t, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(folder, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(to, at, at); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "make", "build")
	c.Dir, c.Env = folder, append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	return folder
}

// needDocker skips without Docker and the base image; with CI=true that is a failure, so that a skip cannot hide.
func needDocker(t *testing.T) {
	t.Helper()
	const base = "golang:1.26-bookworm"
	if exec.CommandContext(t.Context(), "docker", "image", "inspect", base).Run() != nil {
		program.Missing(t, "Docker with the image %s (test/env/base-images.sh)", base)
	}
}

// fromImage is the program in the image of a target, built from a folder.
func fromImage(t *testing.T, folder, target, name string) []byte {
	t.Helper()
	image := "meshless-test/reproducible-" + target
	build := exec.CommandContext(t.Context(), "docker", "build", "-q", "--target", target, "-t", image, folder)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v\n%s", err, out)
	}
	container := output(t, "docker", "create", image)
	defer func() { _ = exec.Command("docker", "rm", container).Run() }()
	to := filepath.Join(t.TempDir(), name)
	output(t, "docker", "cp", container+":/"+name, to)
	return read(t, to)
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir = root
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, errs.String())
	}
	return strings.TrimSuffix(string(out), "\n")
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
