package consumers

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// command runs a program with the function on the PATH and returns what it printed on both streams.
func command(t *testing.T, stdin, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = program.WithMeshless(t)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// verifyOutput is `meshless verify -`.
func verifyOutput(t *testing.T, rendered string) (stderr string, ok bool) {
	t.Helper()
	_, stderr, err := command(t, rendered, program.Meshless(t), "verify", "-")
	return stderr, err == nil
}

// kubectl embeds a kustomize of its own, which runs containers and knows no exec functions.
func TestKubectlRunsTheImage(t *testing.T) {
	needImage(t)
	_, err := exec.LookPath("kubectl")
	need(t, "kubectl", err == nil)
	e := example.Copy(t, "../../examples/shop")
	e.Issue(t, time.Now())
	byBinary := e.Render(t)
	out, stderr, err := command(t, "", "kubectl", "kustomize", "--enable-alpha-plugins", e.Dir)
	if err != nil || stderr != "" {
		t.Errorf("kubectl skips exec functions silently no more: %v, %s", err, stderr)
	}
	if stderr, ok := verifyOutput(t, out); ok || !strings.Contains(stderr, "was the function skipped") {
		t.Errorf("verify says of a skipped function: %s", stderr)
	}
	e.Containerize(t)
	out, stderr, err = command(t, "", "kubectl", "kustomize", "--enable-alpha-plugins", e.Dir)
	if err != nil {
		t.Fatalf("kubectl kustomize: %v\n%s", err, stderr)
	}
	if stderr, ok := verifyOutput(t, out); !ok {
		t.Error(stderr)
	}
	if diff := cmp.Diff(byBinary, out); diff != "" {
		t.Errorf("kubectl and kustomize render differently:\n%s", diff)
	}
	if _, stderr, err := command(t, "", "kubectl", "kustomize", e.Dir); err == nil || !strings.Contains(stderr, "external plugins disabled") {
		t.Errorf("kubectl kustomize without --enable-alpha-plugins: %v, %s", err, stderr)
	}
}

// The flags that open a container to the network or run it as somebody else change nothing: the function asks for
// neither.
func TestKustomizeFlagsChangeNothing(t *testing.T) {
	needImage(t)
	e := example.Copy(t, "../../examples/pod")
	e.Issue(t, time.Now())
	e.Containerize(t)
	plain := e.Render(t)
	for _, flags := range [][]string{{"--network"}, {"--network", "--network-name=bridge"}, {"--as-current-user"}, {"--env=MESHLESS_CA_IDENTITY=x"}} {
		out, stderr, err := command(t, "", program.Kustomize(t), append([]string{"build", "--enable-alpha-plugins", e.Dir}, flags...)...)
		if err != nil {
			t.Errorf("kustomize build %v: %v\n%s", flags, err, stderr)
		} else if diff := cmp.Diff(plain, out); diff != "" {
			t.Errorf("kustomize build %v renders differently:\n%s", flags, diff)
		}
	}
}

// kustomize leaves an exec function out and says nothing, without --enable-exec: verify is there to notice.
func TestKustomizeSkipsSilently(t *testing.T) {
	e := example.Copy(t, "../../examples/pod")
	e.Issue(t, time.Now())
	out, stderr, err := command(t, "", program.Kustomize(t), "build", "--enable-alpha-plugins", e.Dir)
	if err != nil || stderr != "" || strings.Contains(out, api.ProxyName) {
		t.Fatalf("kustomize skips an exec function silently no more (%v, %s); then the documents may stop to warn of it", err, stderr)
	}
	if stderr, ok := verifyOutput(t, out); ok || !strings.Contains(stderr, "is not in the mesh; was the function skipped") {
		t.Errorf("verify says of it: %s", stderr)
	}
}

// `kustomize fn run` writes back, as kpt does, and hands over the kustomizations too: with and without kind, several of
// them, none with a name.
func TestKustomizeFnRun(t *testing.T) {
	for name, kustomization := range map[string]string{
		"with a kind": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: []\n",
		"without":     "resources: []\n",
	} {
		t.Run(name, func(t *testing.T) {
			e := example.Copy(t, "../../examples/shop")
			for _, folder := range []string{"", "base/", "more/"} {
				write(t, e, folder+"kustomization.yaml", kustomization)
			}
			remove(t, e, "mtls")
			run := func() {
				if out, stderr, err := command(t, "", program.Kustomize(t), "fn", "run", "--enable-exec", e.Dir); err != nil {
					t.Fatalf("kustomize fn run: %v\n%s%s", err, out, stderr)
				}
			}
			run()
			first := files(t, e.Dir)
			if first["/mtls/ca.yaml"] == "" || first["/more/kustomization.yaml"] != kustomization {
				t.Error("kustomize fn run made no CertificateAuthority, or changed a kustomization")
			}
			if !strings.Contains(first["/base/api.yaml"], "# ready is who reaches the db") {
				t.Error("a comment is lost")
			}
			run()
			same(t, first, e.Dir, "a second kustomize fn run")
		})
	}
}

const webOfNoNamespace = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
`

// px is what an overlay sets after the function has run in a base or a Component below it.
const px = "namespace: prod\nnamePrefix: px-\n"

// early lays out a base with a Deployment and a Service and an overlay; the config lies in a folder of it.
func early(t *testing.T, overlay, configIn string) *example.Example {
	t.Helper()
	e := example.Copy(t, "../../examples/pod")
	remove(t, e, "pod.yaml", "mtls")
	write(t, e, "base/web.yaml", webOfNoNamespace)
	write(t, e, "base/kustomization.yaml", "resources: [web.yaml]\n")
	write(t, e, "kustomization.yaml", overlay)
	moveConfig(t, e, configIn)
	return e
}

func moveConfig(t *testing.T, e *example.Example, folder string) {
	t.Helper()
	if err := os.Rename(filepath.Join(e.Dir, "mtls.yaml"), filepath.Join(e.Dir, folder, "mtls.yaml")); err != nil {
		t.Fatal(err)
	}
}

// issueSays runs `meshless issue`, which must succeed or not and say something.
func issueSays(t *testing.T, dir, want string, succeeds bool) {
	t.Helper()
	if _, stderr, err := command(t, "", program.Meshless(t), "issue", dir); (err == nil) != succeeds || !strings.Contains(stderr, want) {
		t.Errorf("meshless issue %s: %v, want %q in\n%s", filepath.Base(dir), err, want, stderr)
	}
}

func build(t *testing.T, e *example.Example) (stdout, stderr string, err error) {
	t.Helper()
	return command(t, "", program.Kustomize(t), "build", "--enable-alpha-plugins", "--enable-exec", e.Dir)
}

// In a base the function sees names before prefix and namespace are set. It cannot know, and warns of the missing
// namespace; verify sees it in the output.
func TestKustomizeFunctionInABase(t *testing.T) {
	e := early(t, px+"resources: [base]\n", "base")
	write(t, e, "base/kustomization.yaml", "resources: [web.yaml, mtls]\ntransformers: [mtls.yaml]\n")
	issueSays(t, e.Dir, "here, in the outermost overlay, not in a base", false)
	issueSays(t, filepath.Join(e.Dir, "base"), "one that an overlay above sets comes too late", true)
	out, stderr, err := build(t, e)
	if err != nil || !strings.Contains(stderr, "one that an overlay above sets comes too late") {
		t.Fatalf("kustomize build: %v\n%s", err, stderr)
	}
	if stderr, ok := verifyOutput(t, out); ok || !strings.Contains(stderr, "is not what its identity spiffe://cluster.local/ns/default/deployment/web says") {
		t.Errorf("verify says of the output: %s", stderr)
	}
}

// A Component runs before its overlay's prefix and namespace too; certificates that were issued for the overlay give it
// away.
func TestKustomizeFunctionInAComponent(t *testing.T) {
	e := early(t, px+"resources: [base, mtls]\ntransformers: [mtls.yaml]\n", "")
	issueSays(t, e.Dir, "issued a certificate", true) // right so far
	write(t, e, "component/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ntransformers: [mtls.yaml]\n")
	moveConfig(t, e, "component")
	write(t, e, "kustomization.yaml", px+"resources: [base, mtls]\ncomponents: [component]\n")
	issueSays(t, filepath.Join(e.Dir, "component"), "is a Component", false)
	if _, stderr, err := build(t, e); err == nil || !strings.Contains(stderr, "spiffe://cluster.local/ns/prod/deployment/px-web, which is no workload of it") {
		t.Errorf("kustomize build: %v\n%s", err, stderr)
	}
}

// A transformer after ours renames what was made for another name.
func TestKustomizeFunctionBeforeATransformer(t *testing.T) {
	e := early(t, "namespace: prod\nresources: [base, mtls]\ntransformers: [mtls.yaml]\n", "")
	issueSays(t, e.Dir, "issued a certificate", true)
	write(t, e, "prefix.yaml", "apiVersion: builtin\nkind: PrefixTransformer\nmetadata: {name: p}\nprefix: px-\nfieldSpecs: [{path: metadata/name}]\n")
	write(t, e, "kustomization.yaml", "namespace: prod\nresources: [base, mtls]\ntransformers: [mtls.yaml, prefix.yaml]\n")
	issueSays(t, e.Dir, "must be the last", false)
	out, stderr, err := build(t, e)
	if err != nil {
		t.Fatalf("kustomize build: %v\n%s", err, stderr)
	}
	if stderr, ok := verifyOutput(t, out); ok || !strings.Contains(stderr, "is not what its identity spiffe://cluster.local/ns/prod/deployment/web says") {
		t.Errorf("verify says of the output: %s", stderr)
	}
}
