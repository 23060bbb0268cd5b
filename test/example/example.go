// Package example gives tests a working copy of one of the examples: with recipients whose identities the test holds,
// and with the function as a local binary. It runs the real commands, `meshless` and `kustomize`, as a user would.
package example

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/program"
)

// AppImage is the image of test/app, under the name that the examples use.
const AppImage = "ghcr.io/meshless-dev/shop:" + api.Version

// Example is the copy.
type Example struct {
	Dir     string
	Cluster *age.X25519Identity // opens workload keys
	ca      *age.X25519Identity // opens the CA's key

	// Program is the meshless command that issues and renders; "" is that of this repository.
	Program string
}

// Copy copies the example at dir. The TestMain of its users is program.Main.
func Copy(tb testing.TB, dir string) *Example {
	tb.Helper()
	return copyFor(tb, dir, NewIdentity(tb), NewIdentity(tb))
}

func copyFor(tb testing.TB, dir string, cluster, ca *age.X25519Identity) *Example {
	tb.Helper()
	e := &Example{Dir: filepath.Join(tb.TempDir(), filepath.Base(dir)), Cluster: cluster, ca: ca}
	if err := os.CopyFS(e.Dir, os.DirFS(dir)); err != nil {
		tb.Fatal(err)
	}
	recipients := []string{e.Cluster.Recipient().String(), e.ca.Recipient().String()} // in the order of the file
	e.Edit(tb, "mtls.yaml", func(text string) string {
		text = strings.Replace(text, "container: {image: "+api.FnImage+"}", "exec: {path: meshless}", 1)
		return regexp.MustCompile(`age1[a-z0-9]{20,}`).ReplaceAllStringFunc(text, func(string) string {
			if len(recipients) == 0 {
				tb.Fatalf("%s/mtls.yaml holds more than two recipients", dir)
			}
			next := recipients[0]
			recipients = recipients[1:]
			return next
		})
	})
	if len(recipients) > 0 {
		tb.Fatalf("%s/mtls.yaml holds too few recipients", dir)
	}
	return e
}

// Sibling copies another example for a package of the same owner: the identities are those of e.
func (e *Example) Sibling(tb testing.TB, dir string) *Example {
	tb.Helper()
	return copyFor(tb, dir, e.Cluster, e.ca)
}

// Join gives the copy the recipients of another, so that both can use one CA and one identity of the cluster.
func (e *Example) Join(tb testing.TB, other *Example) {
	tb.Helper()
	e.Replace(tb, "mtls.yaml", e.Cluster.Recipient().String(), other.Cluster.Recipient().String())
	e.Replace(tb, "mtls.yaml", e.ca.Recipient().String(), other.ca.Recipient().String())
	e.Cluster, e.ca = other.Cluster, other.ca
}

// NewIdentity makes an age identity.
func NewIdentity(tb testing.TB) *age.X25519Identity {
	tb.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		tb.Fatal(err)
	}
	return identity
}

// Edit changes one file of the copy. A change that changes nothing fails the test: the file is then not as the test
// knows it.
func (e *Example) Edit(tb testing.TB, file string, change func(string) string) {
	tb.Helper()
	path := filepath.Join(e.Dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	changed := change(string(text))
	if changed == string(text) {
		tb.Fatalf("%s is not as this test knows it: nothing to change", file)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// Write replaces a whole file of the copy.
func (e *Example) Write(tb testing.TB, file, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(e.Dir, file), []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// Replace replaces a text of a file, wherever it stands there. One that is not there fails the test.
func (e *Example) Replace(tb testing.TB, file, old, with string) {
	tb.Helper()
	e.Edit(tb, file, func(text string) string { return strings.ReplaceAll(text, old, with) })
}

// Issue makes the certificates that are missing or due at the time, with more flags of `meshless issue`, and returns
// what the command tells people.
func (e *Example) Issue(tb testing.TB, now time.Time, flags ...string) string {
	tb.Helper()
	return e.Meshless(tb, now, append([]string{"issue", e.Dir}, flags...)...)
}

// Meshless runs the command as if it were now, and returns what it tells people.
func (e *Example) Meshless(tb testing.TB, now time.Time, args ...string) string {
	tb.Helper()
	_, told := e.run(tb, e.program(tb), append(args, "--now", now.UTC().Format(time.RFC3339))...)
	tb.Logf("meshless %s:\n%s", strings.Join(args, " "), told)
	return told
}

// Render runs kustomize with the function and returns the manifests.
func (e *Example) Render(tb testing.TB) string {
	tb.Helper()
	rendered := e.Plain(tb, "--enable-alpha-plugins", "--enable-exec")
	if strings.Contains(rendered, "AGE-SECRET-KEY") || strings.Contains(rendered, "PRIVATE KEY-----") {
		tb.Fatal("the rendered manifests hold a key in the clear")
	}
	return rendered
}

// Plain is `kustomize build` with flags; without any, it is for a kustomization without the function.
func (e *Example) Plain(tb testing.TB, flags ...string) string {
	tb.Helper()
	rendered, _ := e.run(tb, program.Kustomize(tb), append(append([]string{"build"}, flags...), e.Dir)...)
	return rendered
}

func (e *Example) program(tb testing.TB) string {
	tb.Helper()
	if e.Program != "" {
		return e.Program
	}
	return program.Meshless(tb)
}

func (e *Example) run(tb testing.TB, name string, args ...string) (stdout, stderr string) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), name, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(e.program(tb))+string(os.PathListSeparator)+os.Getenv("PATH"),
		"MESHLESS_CA_IDENTITY="+e.ca.String())
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	if err := cmd.Run(); err != nil {
		tb.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, &told)
	}
	return out.String(), told.String()
}

// IdentitySecret is the manifest that whoever runs the platform applies to a namespace once. It holds the identities;
// of none, that of the cluster.
func (e *Example) IdentitySecret(namespace string, identities ...*age.X25519Identity) string {
	if len(identities) == 0 {
		identities = []*age.X25519Identity{e.Cluster}
	}
	var lines strings.Builder
	for _, identity := range identities {
		fmt.Fprintln(&lines, identity)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: meshless-identity, namespace: %s}\nstringData: {%s: %q}\n",
		namespace, api.IdentityFile, lines.String())
}

// Leaf opens the certificate that a workload's Secret holds, as a thief of the namespace's Secrets could.
func (e *Example) Leaf(tb testing.TB, secret corev1.Secret) tls.Certificate {
	tb.Helper()
	leaf, err := Open(secret, e.Cluster)
	if err != nil {
		tb.Fatalf("Secret %s: %v", secret.Name, err)
	}
	return leaf
}

// Open opens the certificate in a workload's Secret with an identity.
func Open(secret corev1.Secret, identity age.Identity) (tls.Certificate, error) {
	opened, err := age.Decrypt(armor.NewReader(bytes.NewReader(secret.Data[api.SealedKeyFile])), identity)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("open the key: %w", err)
	}
	key, err := io.ReadAll(opened)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(secret.Data[api.LeafFile], key)
}
