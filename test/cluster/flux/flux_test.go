//go:build e2e && linux

package flux

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// TestFlux installs Flux once. The steps share nothing but it, and so run beside each other.
func TestFlux(t *testing.T) {
	r := newRoom(t)
	t.Run("steps", func(t *testing.T) {
		for _, step := range []struct {
			name string
			test func(*testing.T, *room)
		}{
			{"a rendered branch from an empty cluster to an empty cluster", testBranch},
			{"into the mesh and out of it", testAdoption},
			{"Flux opens the keys", testSOPS},
			{"substitution", testSubstitution},
			{"another namespace", testTargetNamespace},
			{"patches", testPatches},
			{"charts", testHelm},
		} {
			t.Run(step.name, func(t *testing.T) {
				t.Parallel()
				started := time.Now()
				step.test(t, r)
				t.Logf("%s: %v", step.name, time.Since(started).Round(time.Second))
			})
		}
	})
	if t.Failed() {
		for _, name := range controllers {
			log, err := stage.Kubectl("", "-n", system, "logs", "deployment/"+name, "--since=10m")
			t.Logf("--- errors of %s (%v) ---\n%s", name, err, errorsOf(log))
		}
	}
}

// errorsOf are the last errors of a controller's log.
func errorsOf(log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"level":"error"`) {
			lines = append(lines, line[:min(len(line), 600)])
		}
	}
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// run runs a line of the documentation as it stands there, in a folder and with more environment.
func run(t *testing.T, dir, line string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euc", line)
	cmd.Dir, cmd.Env = dir, append(ci(t), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// write writes a file and the folders above it.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read reads a file.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// isPlain tells whether what the template of testSOPS printed is a key.
func isPlain(text string) bool {
	return strings.Contains(text, "-----BEGIN PRIVATE KEY-----") && !strings.HasSuffix(text, "sops")
}

// wantMutualTLS wants that server's proxy of the pair was called with mutual TLS, and no proxy with anything else.
func wantMutualTLS(t *testing.T, namespace string) {
	t.Helper()
	stage.Poll(t, patience, func() error {
		if n := stage.OpenedBy(t, namespace, stage.Pods(t, namespace, "app=server")[0].Name, "inbound", "mutual_tls"); n == 0 {
			return errors.New("nobody has called the server with mutual TLS")
		}
		return nil
	})
	stage.WantEncrypted(t, namespace, "app in (server,client)")
}
