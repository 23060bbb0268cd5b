package sops

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// shop is the example in the format SOPS, issued. key is the cluster's age identity.
func shop(t *testing.T) (e *example.Example, key string) {
	t.Helper()
	e = example.Copy(t, "../../examples/shop")
	e.Edit(t, "mtls.yaml", func(text string) string {
		return strings.Replace(text, "  sealing:\n", "  sealing:\n    format: SOPS\n", 1)
	})
	e.Issue(t, time.Now())
	return e, regexp.MustCompile(`AGE-SECRET-KEY-[A-Z0-9-]+`).FindString(e.IdentitySecret("any"))
}

// sops runs the real program with an age identity, and nothing else of the machine that could decrypt.
func sops(t *testing.T, key string, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program.Find(t, "sops", "test/sops/programs.sh builds it"), args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "SOPS_AGE_KEY=" + key}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("sops %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	return out.String(), nil
}

func mustSops(t *testing.T, key string, args ...string) string {
	t.Helper()
	out, err := sops(t, key, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// issue runs `meshless issue` without the CA's identity, so that it can keep or refuse and not make anything new.
func issue(t *testing.T, dir string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program.Meshless(t), "issue", dir)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// secretFiles are the files of the state that hold a workload's Secret.
func secretFiles(t *testing.T, e *example.Example) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(e.Dir, "mtls", "*", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, file := range all {
		if strings.Contains(read(t, file), "kind: Secret") {
			files = append(files, file)
		}
	}
	if len(files) != 4 {
		t.Fatalf("the shop has %d Secrets in %v, want one for each of its four workloads", len(files), all)
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// documents are the objects of a stream.
func documents(t *testing.T, text string) []*kyaml.RNode {
	t.Helper()
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// secrets are the Secrets of a stream, each as a file, by name.
func secrets(t *testing.T, text string) map[string]string {
	t.Helper()
	files, dir := map[string]string{}, t.TempDir()
	for _, item := range documents(t, text) {
		if item.GetKind() == "Secret" {
			files[item.GetName()] = write(t, filepath.Join(dir, item.GetName()+".yaml"), item.MustString())
		}
	}
	if len(files) != 4 {
		t.Fatalf("there are %d Secrets, want one for each of the shop's four workloads", len(files))
	}
	return files
}

// keyPair checks that a decrypted Secret is one that the API server takes and a proxy can use, and returns it.
func keyPair(t *testing.T, text string) corev1.Secret {
	t.Helper()
	var secret corev1.Secret
	if err := yaml.UnmarshalStrict([]byte(text), &secret); err != nil {
		t.Fatalf("what was decrypted is no Secret: %v", err)
	}
	if _, err := tls.X509KeyPair(secret.Data[api.LeafFile], secret.Data[api.PlainKeyFile]); err != nil {
		t.Errorf("Secret %s: %v", secret.Name, err)
	}
	return secret
}
