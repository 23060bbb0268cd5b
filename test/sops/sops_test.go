package sops

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
)

// The real sops decrypts the files that `meshless issue` writes, and finds their MAC right. But for the key and its own
// field it leaves everything as it was.
func TestSopsDecryptsTheState(t *testing.T) {
	e, key := shop(t)
	for _, file := range secretFiles(t, e) {
		if status := mustSops(t, key, "filestatus", file); !strings.Contains(status, `"encrypted":true`) {
			t.Errorf("sops says of %s: %s", file, status)
		}
		plain := mustSops(t, key, "decrypt", file)
		keyPair(t, plain)
		before, after := kyaml.MustParse(read(t, file)), kyaml.MustParse(plain)
		for _, n := range []*kyaml.RNode{before, after} {
			if err := n.PipeE(kyaml.Lookup("data"), kyaml.Clear(api.PlainKeyFile)); err != nil {
				t.Fatal(err)
			}
			if err := n.PipeE(kyaml.Clear("sops")); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(before.MustString(), after.MustString()); diff != "" {
			t.Errorf("sops changes more than the key:\n%s", diff)
		}
	}
}

// Nobody else opens it, and sops refuses a Secret whose key, date or MAC was exchanged.
func TestSopsRefuses(t *testing.T) {
	e, key := shop(t)
	files := secretFiles(t, e)
	good, other := kyaml.MustParse(read(t, files[0])), kyaml.MustParse(read(t, files[1]))
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sops(t, stranger.String(), "decrypt", files[0]); err == nil || !strings.Contains(err.Error(), "Failed to get the data key") {
		t.Errorf("a stranger: %v", err)
	}
	exchange := func(path ...string) *kyaml.RNode {
		changed := good.Copy()
		value, err := other.Pipe(kyaml.Lookup(path...))
		if err != nil {
			t.Fatal(err)
		}
		if err := changed.PipeE(kyaml.Lookup(path[:len(path)-1]...), kyaml.SetField(path[len(path)-1], value)); err != nil {
			t.Fatal(err)
		}
		return changed
	}
	redated := good.Copy()
	if err := redated.PipeE(kyaml.Lookup("sops"), kyaml.SetField("lastmodified", kyaml.NewStringRNode("2020-01-01T00:00:00Z"))); err != nil {
		t.Fatal(err)
	}
	for name, changed := range map[string]*kyaml.RNode{"key": exchange("data", "tls.key"), "MAC": exchange("sops", "mac"), "date": redated, "data key": exchange("sops", "age")} {
		file := write(t, filepath.Join(t.TempDir(), "changed.yaml"), changed.MustString())
		if _, err := sops(t, key, "decrypt", file); err == nil {
			t.Errorf("sops opens a Secret with another's %s", name)
		}
	}
	mustSops(t, key, "decrypt", write(t, filepath.Join(t.TempDir(), "good.yaml"), good.MustString()))
}

// kustomize has set namespace and prefix when the function runs; an overlay on top edits all metadata that it can. sops
// decrypts both, MAC included.
func TestSopsDecryptsWhatKustomizeBuilt(t *testing.T) {
	e, key := shop(t)
	rendered := e.Render(t)
	e.Verify(t, rendered)
	for name, file := range secrets(t, rendered) {
		if secret := keyPair(t, mustSops(t, key, "decrypt", file)); secret.Namespace != "acme-shop" || !strings.HasPrefix(name, "meshless-") {
			t.Errorf("kustomize left %s/%s", secret.Namespace, name)
		}
	}
	for name, file := range secrets(t, overlay(t, rendered)) {
		secret := keyPair(t, mustSops(t, key, "decrypt", file))
		if secret.Namespace != "elsewhere" || !strings.HasPrefix(name, "pre-") || !strings.HasSuffix(name, "-post") || secret.Labels["team"] != "a" || secret.Annotations["by"] != "overlay" {
			t.Errorf("the overlay left %s/%s with %v and %v", secret.Namespace, name, secret.Labels, secret.Annotations)
		}
	}
}

// overlay builds manifests once more with everything by which kustomize edits metadata.
func overlay(t *testing.T, manifests string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "manifests.yaml"), manifests)
	write(t, filepath.Join(dir, "kustomization.yaml"), "namespace: elsewhere\nnamePrefix: pre-\nnameSuffix: -post\ncommonAnnotations: {by: overlay}\n"+
		"labels: [{pairs: {team: a}, includeTemplates: true}]\nresources: [manifests.yaml]\n")
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// With nothing due, the next issue leaves the bytes alone; so it does when sops itself has written the file, encrypted
// anew or with another data key.
func TestStateThatSopsWroteIsKept(t *testing.T) {
	e, key := shop(t)
	recipient := recipientOf(t, key)
	file := secretFiles(t, e)[0]
	for name, edit := range map[string]func(){
		"untouched": func() {},
		"rotate":    func() { mustSops(t, key, "rotate", "--in-place", file) },
		"decrypt and encrypt": func() {
			mustSops(t, key, "decrypt", "--in-place", file)
			mustSops(t, key, "--encrypt", "--in-place", "--age", recipient, "--encrypted-regex", `^tls\.key$`, "--mac-only-encrypted", file)
		},
	} {
		edit()
		before := read(t, file)
		if out, err := issue(t, e.Dir); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if diff := cmp.Diff(before, read(t, file)); diff != "" {
			t.Errorf("%s: the next issue changes the file:\n%s", name, diff)
		}
		keyPair(t, mustSops(t, key, "decrypt", file))
		e.Verify(t, e.Render(t))
	}
}

// What sops can make of a Secret and a mesh cannot use is refused, by issue and by verify, or due for a new key.
func TestStateThatSopsSpoiled(t *testing.T) {
	e, key := shop(t)
	recipient, file := recipientOf(t, key), secretFiles(t, e)[0]
	good := read(t, file)
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		edit func()
		want string
	}{
		"decrypted": {func() { mustSops(t, key, "decrypt", "--in-place", file) }, "holds a private key in the clear; consider it leaked"},
		"all data encrypted": {func() {
			mustSops(t, key, "decrypt", "--in-place", file)
			mustSops(t, key, "--encrypt", "--in-place", "--age", recipient, "--encrypted-regex", "^(data|stringData)$", "--mac-only-encrypted", file)
		}, "is encrypted by SOPS, and a render has to read it"},
		"MAC over everything": {func() {
			mustSops(t, key, "decrypt", "--in-place", file)
			mustSops(t, key, "--encrypt", "--in-place", "--age", recipient, "--encrypted-regex", `^tls\.key$`, file)
		}, "needs sops.mac_only_encrypted: true"},
		"one recipient more": {func() { mustSops(t, key, "rotate", "--in-place", "--add-age", stranger.Recipient().String(), file) }, "is sealed to other recipients (sops.age) than the config names"},
	} {
		write(t, file, good)
		test.edit()
		spoiled := read(t, file)
		out, err := issue(t, e.Dir)
		if err == nil || !strings.Contains(out, test.want) {
			t.Errorf("%s: issue says %v: %s\nwant %q", name, err, out, test.want)
		}
		if read(t, file) != spoiled {
			t.Errorf("%s: a failed issue changed the file", name)
		}
	}
	write(t, file, good)
	mustSops(t, key, "rotate", "--in-place", "--add-age", stranger.Recipient().String(), file)
	e.Issue(t, time.Now()) // with the CA's identity, one recipient more is mended by a new key
	keyPair(t, mustSops(t, key, "decrypt", file))
	if _, err := sops(t, stranger.String(), "decrypt", file); err == nil {
		t.Error("the recipient that was added opens the new key")
	}
}

// Post-quantum recipients work with sops since 3.12, and Flux since 2.9.
func TestPostQuantum(t *testing.T) {
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	e, classic := shop(t)
	e.Edit(t, "mtls.yaml", func(text string) string {
		return strings.Replace(text, recipientOf(t, classic), identity.Recipient().String(), 1)
	})
	e.Issue(t, time.Now()) // the recipients changed: every key is new
	for _, file := range secretFiles(t, e) {
		keyPair(t, mustSops(t, identity.String(), "decrypt", file))
		if _, err := sops(t, classic, "decrypt", file); err == nil {
			t.Error("the recipient of before opens the new key")
		}
	}
	applied, err := flux(t, branch(t, e.Render(t), ""), identity.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range secrets(t, applied) {
		keyPair(t, read(t, file))
	}
}

// Whoever applies the Secret without decrypting it is refused: its value is no base64, which is what the API server
// decodes.
func TestUndecryptedIsNoSecret(t *testing.T) {
	e, _ := shop(t)
	for _, file := range secretFiles(t, e) {
		var secret corev1.Secret
		if err := yaml.Unmarshal([]byte(read(t, file)), &secret); err == nil || !strings.Contains(err.Error(), "illegal base64") {
			t.Errorf("read as a Secret: %v", err)
		}
	}
}

func recipientOf(t *testing.T, key string) string {
	t.Helper()
	identity, err := age.ParseX25519Identity(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Recipient().String()
}
