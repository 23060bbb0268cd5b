//go:build e2e && linux

package chain

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/kube"
	"github.com/meshless-dev/meshless/test/example"
)

// Folder is a copy of the kustomization in folder/, with recipients whose identities the test holds.
type Folder struct {
	Dir       string
	Namespace string
	Cluster   *age.X25519Identity // opens the keys of workloads
	ca        *age.X25519Identity // opens that of the CA
}

// Words of the folder's files that a copy replaces.
const (
	namespaceWord = "chain-namespace"
	clusterWord   = "CLUSTER-RECIPIENT"
	caWord        = "CA-RECIPIENT"
)

// NewFolder copies the folder, whose path is relative to the test's, for a namespace.
func NewFolder(t *testing.T, from, namespace string) *Folder {
	t.Helper()
	f := &Folder{Dir: filepath.Join(t.TempDir(), "chain"), Namespace: namespace, Cluster: NewIdentity(t), ca: NewIdentity(t)}
	if err := os.CopyFS(f.Dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	f.Replace(t, "kustomization.yaml", namespaceWord, namespace)
	f.Replace(t, "mtls.yaml", clusterWord, f.Cluster.Recipient().String())
	f.Replace(t, "mtls.yaml", caWord, f.ca.Recipient().String())
	return f
}

// NewIdentity makes an age identity.
func NewIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// Replace replaces a text of a file. One that is not there fails the test.
func (f *Folder) Replace(t *testing.T, file, old, with string) {
	t.Helper()
	path := filepath.Join(f.Dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s holds no %q", file, old)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, with)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Meshless runs the command of this work tree as if it were now, and returns what it tells people.
func (f *Folder) Meshless(t *testing.T, now time.Time, args ...string) string {
	t.Helper()
	args = append(args, "--now", now.UTC().Format(time.RFC3339))
	_, told := f.run(t, "", filepath.Join(kube.BinDir, "meshless"), args...)
	t.Logf("meshless %s:\n%s", strings.Join(args, " "), told)
	return told
}

// Issue is `meshless issue`, with flags.
func (f *Folder) Issue(t *testing.T, now time.Time, flags ...string) string {
	t.Helper()
	return f.Meshless(t, now, append([]string{"issue", f.Dir}, flags...)...)
}

// Render runs kustomize with the function, and then `meshless verify` as a pipeline would.
func (f *Folder) Render(t *testing.T) string {
	t.Helper()
	rendered, _ := f.run(t, "", example.Kustomize(t), "build", "--enable-alpha-plugins", "--enable-exec", f.Dir)
	if strings.Contains(rendered, "AGE-SECRET-KEY") || strings.Contains(rendered, "PRIVATE KEY-----") {
		t.Fatal("the rendered manifests hold a key in the clear")
	}
	f.run(t, rendered, filepath.Join(kube.BinDir, "meshless"), "verify", "-")
	return rendered
}

// Plain runs kustomize alone, for a kustomization without the function.
func (f *Folder) Plain(t *testing.T) string {
	t.Helper()
	rendered, _ := f.run(t, "", example.Kustomize(t), "build", f.Dir)
	return rendered
}

// IdentitySecret is the manifest of the namespace's identities.
func (f *Folder) IdentitySecret(identities ...*age.X25519Identity) string {
	var lines strings.Builder
	for _, identity := range identities {
		fmt.Fprintln(&lines, identity)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: meshless-identity, namespace: %s}\nstringData: {%s: %q}\n", f.Namespace, api.IdentityFile, lines.String())
}

func (f *Folder) run(t *testing.T, stdin, name string, args ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "PATH="+kube.BinDir+string(os.PathListSeparator)+os.Getenv("PATH"), "MESHLESS_CA_IDENTITY="+f.ca.String())
	cmd.Stdin = strings.NewReader(stdin)
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, &told)
	}
	return out.String(), told.String()
}
