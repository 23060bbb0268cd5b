package stage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/program"
)

// Main is the TestMain of a package of tests on a cluster; it returns the exit code.
func Main(m *testing.M) int {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "set KUBECONFIG to a cluster that may be written to; test/up.sh makes one")
		return 1
	}
	return program.Main(m)
}

// Kubectl runs kubectl for at most two minutes and returns what it prints on its standard output.
func Kubectl(stdin string, args ...string) (string, error) {
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

// Must is Kubectl for what has to succeed.
func Must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := Kubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// NewNamespace makes a namespace that goes with the test. What is in it is printed when the test has failed.
func NewNamespace(t *testing.T, name string) {
	t.Helper()
	if out, err := Kubectl("", "delete", "namespace", name, "--ignore-not-found"); err != nil {
		t.Fatalf("%v%s", err, out)
	}
	Must(t, "", "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, name)
		}
		if os.Getenv("KEEP") != "" { // for a look at what is there
			return
		}
		if _, err := Kubectl("", "delete", "namespace", name, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
}

// dump prints what tells why: no more of each than that, since what failed must not drown in it.
func dump(t *testing.T, namespace string) {
	show := func(args ...string) {
		out, err := Kubectl("", append([]string{"-n", namespace}, args...)...)
		t.Logf("--- %s: %s (%v) ---\n%s", namespace, strings.Join(args, " "), err, out)
	}
	show("get", "all", "-o", "wide")
	show("get", "events", "--field-selector", "type!=Normal")
	pods, _ := Kubectl("", "-n", namespace, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
	for pod := range strings.FieldsSeq(pods) {
		name, ready, _ := strings.Cut(pod, "=")
		if ready != "True" {
			show("describe", "pod", name)
		}
		show("logs", name, "--all-containers", "--prefix", "--tail=15")
	}
}
