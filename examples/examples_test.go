// Package examples tests that every example with a Kptfile is what its README says: a kpt package and a kustomization
// at once, rendered by the function as it is committed. Whether the result works is shown in test, and so is what the
// folders for Argo CD and Flux hold.
package examples

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
)

// eachExample runs the test on a copy of every folder that has a Kptfile, with the meshless command on the PATH.
func eachExample(t *testing.T, test func(t *testing.T, dir string)) {
	t.Helper()
	kptfiles, err := filepath.Glob("*/Kptfile")
	if err != nil || len(kptfiles) < 2 {
		t.Fatalf("found %d examples (%v), want shop and pod at least", len(kptfiles), err)
	}
	bin := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "meshless"), "../cmd/meshless").CombinedOutput(); err != nil {
		t.Fatalf("go build fn: %v\n%s", err, out)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, kptfile := range kptfiles {
		name := filepath.Dir(kptfile)
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			if err := os.CopyFS(dir, os.DirFS(name)); err != nil {
				t.Fatal(err)
			}
			test(t, dir)
		})
	}
}

func TestKustomize(t *testing.T) {
	eachExample(t, func(t *testing.T, dir string) {
		config := filepath.Join(dir, "mtls.yaml")
		text := read(t, config)
		container := "container: {image: " + api.FnImage + "}"
		if !strings.Contains(text, container) {
			t.Fatalf("mtls.yaml wants the line %q", container)
		}
		// as the README says for machines without Docker
		write(t, config, strings.Replace(text, container, "exec: {path: meshless}", 1))
		if _, err := kustomizeBuild(dir); err == nil {
			t.Error("renders before any certificate was issued")
		}
		meshless(t, nil, "issue", dir)
		before := tree(t, dir)
		meshless(t, nil, "issue", dir)
		if after := tree(t, dir); !maps.Equal(before, after) {
			t.Error("issuing again, with nothing due, changes files")
		}
		rendered, err := kustomizeBuild(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"name: " + api.InitName, "name: " + api.ProxyName, api.SealedKeyFile + ":"} {
			if !bytes.Contains(rendered, []byte(want)) {
				t.Errorf("rendered manifests hold no %q", want)
			}
		}
		meshless(t, rendered, "verify", "-")
	})
}

// kustomizeBuild is `kustomize build --enable-alpha-plugins --enable-exec`.
func kustomizeBuild(dir string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	options.PluginConfig = types.EnabledPluginConfig(types.BploUseStaticallyLinked)
	options.PluginConfig.FnpLoadingOptions.EnableExec = true
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	return resources.AsYaml()
}

func TestKptPackage(t *testing.T) {
	eachExample(t, func(t *testing.T, dir string) {
		if text := read(t, filepath.Join(dir, "Kptfile")); !strings.Contains(text, "image: "+api.FnImage+"\n") {
			t.Errorf("Kptfile runs another image than %s:\n%s", api.FnImage, text)
		}
		original := tree(t, dir)
		meshless(t, nil, "issue", "--kpt", dir)
		once := tree(t, dir)
		meshless(t, nil, "issue", "--kpt", dir)
		if !maps.Equal(once, tree(t, dir)) {
			t.Error("a second render changes files")
		}
		changed := 0
		for path, text := range original {
			if text != once[path] {
				changed++
			}
			for line := range strings.Lines(text) {
				if _, comment, ok := strings.Cut(line, "# "); ok && strings.HasSuffix(path, ".yaml") && !strings.Contains(once[path], strings.TrimSpace(comment)) {
					t.Errorf("%s: the comment %q is lost", path, strings.TrimSpace(comment))
				}
			}
		}
		if changed == 0 || len(once) <= len(original) {
			t.Errorf("the render changed %d files and added %d, want some of both", changed, len(once)-len(original))
		}
	})
}

// Examples are committed with recipients that nobody has the identity of, and never with an identity.
func TestRecipientsAreNobodys(t *testing.T) {
	eachExample(t, func(t *testing.T, dir string) {
		var config struct {
			Spec struct {
				Sealing      struct{ Recipients []string }
				Certificates struct{ CA struct{ Recipients []string } }
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, filepath.Join(dir, "mtls.yaml"))), &config); err != nil {
			t.Fatal(err)
		}
		cluster, ca := config.Spec.Sealing.Recipients, config.Spec.Certificates.CA.Recipients
		if len(cluster) != 1 || len(ca) != 1 || cluster[0] == ca[0] {
			t.Errorf("recipients are %q and %q, want one each, and two different ones", cluster, ca)
		}
		for _, recipient := range append(cluster, ca...) {
			if _, err := age.ParseX25519Recipient(recipient); err != nil {
				t.Errorf("recipient %q: %v", recipient, err)
			}
		}
		for path, text := range tree(t, dir) {
			if strings.Contains(text, "AGE-SECRET-KEY") || strings.Contains(text, "PRIVATE KEY") {
				t.Errorf("%s holds a private key", path)
			}
		}
	})
}

// meshless runs the command and fails the test when it fails.
func meshless(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "meshless", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("meshless %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// tree is the text of every file below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files[path] = read(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
