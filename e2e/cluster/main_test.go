//go:build e2e && linux

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/e2e/example"
	"github.com/meshless-dev/meshless/internal/contract"
)

const shopImage = "ghcr.io/meshless-dev/shop:" + contract.Version

// binDir holds the meshless command.
var binDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "set KUBECONFIG to a cluster that may be written to; e2e/up.sh makes one")
		return 1
	}
	dir, err := os.MkdirTemp("", "meshless-cluster-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir = dir
	if err := example.Build(filepath.Join(dir, "meshless"), "fn"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// kubectl runs kubectl for at most two minutes and returns what it prints on its standard output.
func kubectl(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), nil
}

func must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// newNamespace makes a namespace that goes with the test. What is in it is printed when the test has failed.
func newNamespace(t *testing.T, name string) {
	t.Helper()
	if out, err := kubectl("", "delete", "namespace", name, "--ignore-not-found"); err != nil {
		t.Fatalf("%v%s", err, out)
	}
	must(t, "", "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, name)
		}
		if os.Getenv("KEEP") != "" { // for a look at what is there
			return
		}
		if _, err := kubectl("", "delete", "namespace", name, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
}

func dump(t *testing.T, namespace string) {
	for _, args := range [][]string{{"get", "all", "-o", "wide"}, {"get", "events"}, {"describe", "pods"}} {
		out, err := kubectl("", append([]string{"-n", namespace}, args...)...)
		t.Logf("--- %s: %s (%v) ---\n%s", namespace, strings.Join(args, " "), err, out)
	}
	pods, _ := kubectl("", "-n", namespace, "get", "pods", "-o", "name")
	for pod := range strings.FieldsSeq(pods) {
		out, _ := kubectl("", "-n", namespace, "logs", pod, "--all-containers", "--prefix", "--tail=60")
		t.Logf("--- %s: logs of %s ---\n%s", namespace, pod, out)
	}
}
