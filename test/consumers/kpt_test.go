package consumers

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

// kptfile replaces the Kptfile of an example by one with this pipeline.
func kptfile(t *testing.T, e *example.Example, pipeline string) {
	t.Helper()
	text := "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata:\n  name: package\npipeline:\n" + pipeline
	if err := os.WriteFile(filepath.Join(e.Dir, "Kptfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// step is one entry of a pipeline with an inline config of the example's recipients.
func step(t *testing.T, e *example.Example, more string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(e.Dir, "mtls.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	recipients := regexp.MustCompile(`age1[a-z0-9]{20,}`).FindAllString(string(text), -1)
	if len(recipients) != 2 {
		t.Fatalf("mtls.yaml holds %d recipients", len(recipients))
	}
	return fmt.Sprintf("    - image: %s\n      configMap:\n        recipients: %s\n        caRecipients: %s\n%s", api.FnImage, recipients[0], recipients[1], more)
}

// write makes a file of an example, and its folder.
func write(t *testing.T, e *example.Example, name, text string) {
	t.Helper()
	path := filepath.Join(e.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, e *example.Example, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(e.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// same fails the test unless the folder holds what it held.
func same(t *testing.T, before map[string]string, dir, what string) {
	t.Helper()
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("%s changes the package:\n%s", what, diff)
	}
}

// `kpt fn eval` runs the image and the binary, the config from a file; what one has rendered the other leaves alone.
func TestKptEval(t *testing.T) {
	needImage(t)
	needKpt(t)
	for name, function := range map[string][]string{
		"image": {"--image", api.FnImage},
		"exec":  {"--exec", program.Meshless(t)},
	} {
		t.Run(name, func(t *testing.T) {
			e := example.Copy(t, "../../examples/shop")
			eval := append([]string{"fn", "eval", e.Dir, "--fn-config", filepath.Join(e.Dir, "mtls.yaml")}, function...)
			mustKpt(t, eval...)
			e.VerifyDir(t)
			first := files(t, e.Dir)
			mustKpt(t, eval...)
			same(t, first, e.Dir, "a second kpt fn eval")
			mustKpt(t, "fn", "render", e.Dir)
			same(t, first, e.Dir, "kpt fn render")
		})
	}
}

// A config inline in the Kptfile works for kpt, and `meshless issue` reads the same one.
func TestKptInlineConfig(t *testing.T) {
	needImage(t)
	needKpt(t)
	e := example.Copy(t, "../../examples/pod")
	kptfile(t, e, "  mutators:\n"+step(t, e, "        validity: 48h\n"))
	remove(t, e, "mtls.yaml", "kustomization.yaml", "mtls")
	mustKpt(t, "fn", "render", e.Dir)
	e.VerifyDir(t)
	first := files(t, e.Dir)
	mustKpt(t, "fn", "render", e.Dir)
	same(t, first, e.Dir, "a second kpt fn render")
	e.IssuePackage(t, time.Now())
	same(t, first, e.Dir, "meshless issue --kpt")
	e.IssuePackage(t, time.Now().Add(25*time.Hour)) // 48 h are due after 24
	if cmp.Equal(first, files(t, e.Dir)) {
		t.Error("the validity of the inline config has no effect")
	}
}

// validated renders the shop with kpt and leaves a package whose only step is the validator, with issuance: Never.
func validated(t *testing.T) *example.Example {
	t.Helper()
	e := example.Copy(t, "../../examples/shop")
	remove(t, e, "kustomization.yaml", "base/kustomization.yaml", "mtls/kustomization.yaml")
	// what an inline config cannot say
	e.Edit(t, "mtls.yaml", func(text string) string { return text[:strings.Index(text, "  authorization:")] })
	validator := "  validators:\n" + step(t, e, "        issuance: Never\n")
	kptfile(t, e, mutator+validator)
	mustKpt(t, "fn", "render", e.Dir) // the mutator first, then the validator
	rendered := files(t, e.Dir)
	e.IssuePackage(t, time.Now()) // takes the config of the mutator, not that of the validator
	same(t, rendered, e.Dir, "meshless issue --kpt")
	kptfile(t, e, validator)
	return e
}

const mutator = "  mutators:\n    - image: " + api.FnImage + "\n      configPath: mtls.yaml\n"

// As a validator the function passes what is rendered and changes nothing, with its config inline or in a file beside
// the mutator's.
func TestKptValidatorPasses(t *testing.T) {
	needImage(t)
	needKpt(t)
	e := validated(t)
	before := files(t, e.Dir)
	mustKpt(t, "fn", "render", e.Dir)
	same(t, before, e.Dir, "a validator")

	write(t, e, "check.yaml", strings.Replace(before["/mtls.yaml"], "spec:\n", "spec:\n  issuance: Never\n", 1))
	kptfile(t, e, mutator+"  validators:\n    - image: "+api.FnImage+"\n      configPath: check.yaml\n")
	before = files(t, e.Dir)
	mustKpt(t, "fn", "render", e.Dir)
	e.IssuePackage(t, time.Now())
	same(t, before, e.Dir, "a validator with a config in a file of its own")
}

// It fails what is not as a render leaves it.
func TestKptValidatorFails(t *testing.T) {
	needImage(t)
	needKpt(t)
	rendered := validated(t)
	before := files(t, rendered.Dir)
	text, err := os.ReadFile("../../examples/shop/base/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	web := string(text)
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: web-admin, namespace: shop}\nspec: {selector: {app.kubernetes.io/name: web}, ports: [{port: 81}]}\n"
	const stale = "is not what a render leaves. With issuance Never nothing is changed: run the mutator (`kpt fn render`) or `meshless issue` with a config that issues, and commit what they write"
	for name, edit := range map[string]struct{ file, text, want string }{
		"a workload as it was before":  {"base/web.yaml", web, stale + " (base/web.yaml)"},
		"a Service that has no SAN":    {"base/admin.yaml", service, "the Services that select it changed"},
		"a workload that has no leaf":  {"base/new.yaml", strings.ReplaceAll(web, "name: web", "name: new"), "the certificate must be issued anew: it has none yet"},
		"a workload that has gone":     {"base/report.yaml", "", "is not needed by any workload"},
		"a mesh map edited by hand":    {"mtls/shop/mesh.yaml", strings.Replace(before["/mtls/shop/mesh.yaml"], "AllowMesh", "Deny", 1), stale + " (mtls/shop/mesh.yaml)"},
		"a config that nobody applied": {"Kptfile", strings.Replace(before["/Kptfile"], "issuance: Never", "issuance: Never\n        logLevel: debug", 1), "is not what a render leaves"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &example.Example{Dir: filepath.Join(t.TempDir(), "shop")}
			if err := os.CopyFS(e.Dir, os.DirFS(rendered.Dir)); err != nil {
				t.Fatal(err)
			}
			write(t, e, edit.file, edit.text)
			if edit.text == "" {
				remove(t, e, edit.file)
			}
			before := files(t, e.Dir)
			if out, err := kpt(t, "fn", "render", e.Dir); err == nil || !strings.Contains(out, edit.want) {
				t.Errorf("kpt fn render: %v, want an error with %q\n%s", err, edit.want, out)
			}
			same(t, before, e.Dir, "a validator that fails")
		})
	}
}

// Sub-packages without a config of their own belong to the mesh of the package above them. One with its own is another
// mesh, and the render says that both cannot be.
func TestKptSubpackages(t *testing.T) {
	needImage(t)
	needKpt(t)
	e := example.Copy(t, "../../examples/shop")
	remove(t, e, "kustomization.yaml", "base/kustomization.yaml")
	for _, name := range []string{"web", "db"} {
		text, err := os.ReadFile(filepath.Join(e.Dir, "base", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, e, name+"/workload.yaml", string(text))
		write(t, e, name+"/Kptfile", "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata:\n  name: "+name+"\n")
		remove(t, e, "base/"+name+".yaml")
	}
	mustKpt(t, "fn", "render", e.Dir)
	e.VerifyDir(t)
	first := files(t, e.Dir)
	if _, services, _ := strings.Cut(first["/mtls/shop/mesh.yaml"], "services:"); !strings.Contains(services, "db") || !strings.Contains(first["/db/workload.yaml"], api.ProxyName) {
		t.Error("a sub-package is not in the mesh of its package")
	}
	mustKpt(t, "fn", "render", e.Dir)
	same(t, first, e.Dir, "a second kpt fn render")

	write(t, e, "db/mtls.yaml", strings.Replace(first["/mtls.yaml"], "name: mtls", "name: other", 1))
	write(t, e, "db/Kptfile", first["/db/Kptfile"]+"pipeline:\n  mutators:\n    - image: "+api.FnImage+"\n      configPath: mtls.yaml\n")
	before := files(t, e.Dir)
	if out, err := kpt(t, "fn", "render", e.Dir); err == nil || !strings.Contains(out, "was injected by an earlier render, whose state") {
		t.Errorf("kpt fn render of a sub-package with a config of its own: %v\n%s", err, out)
	}
	same(t, before, e.Dir, "a render that fails")
}

// State that people moved, renamed and commented is found where it is, and stays as it is.
func TestKptKeepsMovedState(t *testing.T) {
	needImage(t)
	needKpt(t)
	e := example.Copy(t, "../../examples/pod")
	remove(t, e, "kustomization.yaml", "mtls/kustomization.yaml")
	mustKpt(t, "fn", "render", e.Dir)
	first := files(t, e.Dir)
	comment := func(name, kind string) string {
		text := strings.Replace(first[name], "kind: "+kind+"\n", "kind: "+kind+" # kept\n", 1)
		return "# Moved here by hand.\n" + strings.Replace(text, "metadata:\n", "metadata: # whose\n", 1)
	}
	write(t, e, "sealed/all.yaml", comment("/mtls/default/pod-mutual-tls.yaml", "Secret")+"---\n"+comment("/mtls/default/bundle.yaml", "ConfigMap"))
	write(t, e, "map.yaml", comment("/mtls/default/mesh.yaml", "ConfigMap")+"---\n"+comment("/mtls/default/members.yaml", "Service"))
	write(t, e, "offline/authority.yaml", comment("/mtls/ca.yaml", "CertificateAuthority"))
	remove(t, e, "mtls")
	moved := files(t, e.Dir)
	mustKpt(t, "fn", "render", e.Dir)
	same(t, moved, e.Dir, "a render after state was moved")
	e.VerifyDir(t)
}
