package cli_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterruptedBuild: who ends issue ends the build that it waits for, and nothing is written.
func TestInterruptedBuild(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kustomization.yaml": "resources: [mtls]\ntransformers: [mtls.yaml]\n",
		"mtls.yaml":          "apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pipe := filepath.Join(dir, "started")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	meshless, err := exec.LookPath("meshless") // of TestMain
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), meshless, "issue", "--build", "echo $$ > "+pipe+"; exec sleep 600", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started, err := os.ReadFile(pipe) // until the build is there
	if err != nil || len(started) == 0 {
		t.Fatalf("%q, %v", started, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "mtls/kustomization.yaml")); err != nil {
		t.Errorf("the build does not find what the kustomization lists: %v", err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer ended.Stop()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "error: --build: was interrupted; nothing was written") {
		t.Errorf("%v: %s", err, stderr.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "mtls")); !os.IsNotExist(err) {
		t.Errorf("a folder stayed: %v", err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(started))); err == nil {
		t.Error("the build goes on")
	}
}
