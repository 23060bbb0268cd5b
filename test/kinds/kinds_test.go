// Package kinds holds what a render makes of custom resources against the validation of their own projects: Argo
// Rollouts, OpenShift and Knative. The renders are golden cases of fn/pipeline.
package kinds

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// modes are the golden cases, one for each form of the sidecar.
var modes = []string{"known-kinds", "known-kinds-container"}

// TestAccepted: the kinds that a render takes into the mesh are accepted as before.
func TestAccepted(t *testing.T) {
	validate := build(t)
	for _, mode := range modes {
		rendered := read(t, mode, "expected.yaml")
		if got := len(regexp.MustCompile(`name: meshless-proxy\b`).FindAll(rendered, -1)); got != 3 {
			t.Fatalf("%s: %d pod templates are injected, want those of a Rollout, a Deployment and a DeploymentConfig", mode, got)
		}
		want := "Rollout web: 0 problems\nRollout referring: 0 problems\nDeploymentConfig shop: 0 problems\n"
		for _, text := range [][]byte{read(t, mode, "input.yaml"), rendered} {
			if got := validate(text); got != want {
				t.Errorf("%s: got:\n%s", mode, got)
			}
		}
	}
}

// TestRefused: a Knative Service with an injection is refused, for whatever the form of the sidecar, and so our render
// refuses it. The day that this fails, a render may take the kind.
func TestRefused(t *testing.T) {
	validate := build(t)
	if got := validate(service(t, map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": "example.test/app"}}}})); !strings.HasPrefix(got, "Service fn: 0 problems\n") {
		t.Errorf("without an injection: %s", got)
	}
	for _, mode := range modes {
		got := validate(service(t, template(t, read(t, mode, "expected.yaml"))))
		for _, want := range []string{`must not set the field\(s\): .*lifecycle, spec.template.spec.initContainers\n`, `pod spec support for init-containers is off`} {
			if !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("%s: does not say %q:\n%s", mode, want, got)
			}
		}
	}
}

// TestValidates: the program says what is wrong with objects of each kind.
func TestValidates(t *testing.T) {
	validate := build(t)
	rendered := string(read(t, modes[0], "expected.yaml"))
	broken := strings.ReplaceAll(rendered, "name: meshless-proxy\n", "name: Meshless_Proxy\n")
	if got := validate([]byte(broken)); strings.Count(got, ": 1 problems\n") != 2 || strings.Count(got, "Meshless_Proxy") != 2 {
		t.Errorf("got:\n%s", got)
	}
}

// service is a Knative Service with a pod template.
func service(t *testing.T, template any) []byte {
	t.Helper()
	text, err := yaml.Marshal(map[string]any{"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": map[string]any{"name": "fn"}, "spec": map[string]any{"template": template}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// template is the pod template of the first Rollout.
func template(t *testing.T, rendered []byte) any {
	t.Helper()
	for document := range strings.SplitSeq(string(rendered), "\n---\n") {
		var object struct {
			Kind string
			Spec struct{ Template any }
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if object.Kind == "Rollout" {
			return object.Spec.Template
		}
	}
	t.Fatal("there is no Rollout in the golden case")
	return nil
}

func read(t *testing.T, mode, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../fn/pipeline/testdata", mode, file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestMain removes the program that validates.
func TestMain(m *testing.M) {
	code := m.Run()
	if program != "" {
		_ = os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

var program string // path of the program that validates; "" before it is built

// build builds the program that validates, once. Argo's package is compiled from its module's own file, put into a
// folder of ours by an overlay: validate/rollouts says why.
func build(t *testing.T) (validate func(manifests []byte) string) {
	t.Helper()
	if program != "" {
		return func(manifests []byte) string { return run(t, exec.Command(program), manifests) }
	}
	folder, err := os.MkdirTemp("", "kinds-")
	if err != nil {
		t.Fatal(err)
	}
	module := run(t, exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/argoproj/argo-rollouts"), nil)
	if module = strings.TrimSpace(module); module == "" { // known, and not downloaded yet
		run(t, exec.Command("go", "mod", "download", "github.com/argoproj/argo-rollouts"), nil)
		module = strings.TrimSpace(run(t, exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/argoproj/argo-rollouts"), nil))
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(here, "validate/rollouts/validation.go"): filepath.Join(module, "pkg/apis/rollouts/validation/validation.go")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(folder, "validate")
	run(t, exec.Command("go", "build", "-tags", "validate", "-overlay", filepath.Join(folder, "overlay.json"), "-o", binary, "./validate"), nil)
	program = binary
	return func(manifests []byte) string { return run(t, exec.Command(program), manifests) }
}

func run(t *testing.T, cmd *exec.Cmd, input []byte) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return string(out)
}
