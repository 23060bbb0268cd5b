package pipeline_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/program"
)

const managedConfig = `
apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: mtls}
spec:
  certificates: {issuer: CertManager, certManager: {issuerRef: {name: mesh-ca}}}
`

// The release of cert-manager whose CRD is asked, and its checksum in sum.golang.org.
const (
	certManager    = "github.com/cert-manager/cert-manager@v1.21.2"
	certManagerSum = "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68="
)

// certificateSchema is the schema of cert-manager's CRD of Certificates, from its Go module. The module is no
// dependency of ours: it is only read.
func certificateSchema(t *testing.T) *spec.Schema {
	t.Helper()
	command := exec.Command("go", "mod", "download", "-json", certManager)
	command.Dir = t.TempDir() // outside of our module, whose go.sum stays as it is
	out, err := command.Output()
	var module struct{ Dir, Sum, Error string }
	if json.Unmarshal(out, &module) != nil || err != nil || module.Error != "" {
		program.Missing(t, "%s, which cannot be had: %v %s", certManager, err, module.Error)
	}
	if module.Sum != certManagerSum {
		t.Fatalf("%s has checksum %s", certManager, module.Sum)
	}
	text, err := os.ReadFile(filepath.Join(module.Dir, "deploy/crds/cert-manager.io_certificates.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct{ OpenAPIV3Schema spec.Schema }
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	for _, version := range crd.Spec.Versions {
		if version.Name == "v1" {
			return &version.Schema.OpenAPIV3Schema
		}
	}
	t.Fatal("the CRD has no version v1")
	return nil
}

// unknownFields are the fields of an object that its schema does not have, which kube-apiserver prunes or, asked to be
// strict, refuses.
func unknownFields(schema spec.Schema, object any, path string) []string {
	var unknown []string
	switch object := object.(type) {
	case map[string]any:
		for key, value := range object {
			field, known := schema.Properties[key]
			switch {
			case known:
				unknown = append(unknown, unknownFields(field, value, path+"."+key)...)
			case schema.AdditionalProperties == nil && path != ".metadata": // the API server's own
				unknown = append(unknown, path+"."+key)
			}
		}
	case []any:
		for i, value := range object {
			unknown = append(unknown, unknownFields(*schema.Items.Schema, value, fmt.Sprintf("%s[%d]", path, i))...)
		}
	}
	return unknown
}

// What a render asks cert-manager for, its API takes, for every algorithm and at the limits of every lifetime.
func TestCertificatesFitCertManager(t *testing.T) {
	schema := certificateSchema(t)
	check := func(text string) []string {
		var object any
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		problems := unknownFields(*schema, object, "")
		if err := validate.AgainstSchema(schema, object, strfmt.Default); err != nil {
			problems = append(problems, err.Error())
		}
		return problems
	}
	for _, algorithm := range v1alpha1.KeyAlgorithms {
		for _, life := range []string{"validity: 1h, renewBefore: 5m", "validity: 1h", "validity: 8784h", "validity: 90m30s, renewBefore: 90m29s"} {
			w := newWorld(t)
			config := w.config(t, strings.Replace(managedConfig, "{issuer: CertManager", "{keyAlgorithm: "+algorithm+", "+life+", issuer: CertManager", 1))
			out, _ := w.mustRun(t, parse(t, twoDeployments+service), config)
			if problems := check(find(t, out, "Certificate", "meshless-deployment-web").MustString()); len(problems) > 0 {
				t.Errorf("%s, %s: %v", algorithm, life, problems)
			}
		}
	}
	out, _ := newWorld(t).mustRun(t, parse(t, twoDeployments), newWorld(t).config(t, managedConfig))
	good := find(t, out, "Certificate", "meshless-deployment-web").MustString()
	for from, to := range map[string]string{"isCA:": "isCa:", "PKCS8": "PKCS9", "client auth": "client", "size: 256": "size: big", "uris:": "uri:"} {
		if len(check(strings.Replace(good, from, to, 1))) == 0 {
			t.Errorf("the schema takes %s instead of %s: does this test still look?", to, from)
		}
	}
}

const service = `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// With cert-manager there is no state: `kustomize build` and a package get the same, without any identity.
func TestManagedBuild(t *testing.T) {
	w := newWorld(t)
	w.noIdentity = true
	config := w.config(t, managedConfig)
	packaged, _ := w.mustRun(t, parse(t, twoDeployments), config)
	w.built = true
	built, r := w.mustRun(t, parse(t, twoDeployments), config)
	lines := func(items []*kyaml.RNode) []string { // annotations stand before labels where the items have paths
		return slices.Sorted(strings.SplitSeq(text(t, items), "\n"))
	}
	if diff := cmp.Diff(lines(packaged), lines(built)); diff != "" || len(r.Results()) > 0 {
		t.Errorf("a build says %v and differs:\n%s", r.Results(), diff)
	}
	for _, item := range built {
		if kind := item.GetKind(); kind == "Secret" || kind == v1alpha1.KindCertificateAuthority || named(item, "meshless-bundle") {
			t.Errorf("there is a %s %s", kind, item.GetName())
		}
	}
}

// A Certificate is ours as a whole: what somebody else wrote into its spec goes, and what says the same stays as it is
// written.
func TestCertificateIsOurs(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, managedConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	want := text(t, out)
	commented := strings.Replace(want, "  isCA: false\n", "  isCA: false # never\n", 1)
	if again, _ := w.mustRun(t, parse(t, commented), config); text(t, again) != commented {
		t.Error("a comment is lost")
	}
	for from, to := range map[string]string{"  isCA: false\n": "  isCA: true\n", "deployment/web\n  usages": "deployment/api\n  usages", "rotationPolicy: Always": "rotationPolicy: Never",
		"  isCA: false\n  uris": "  isCA: false\n  commonName: admin\n  uris"} {
		tampered := strings.Replace(want, from, to, 1)
		if tampered == want {
			t.Fatalf("there is no %q", from)
		}
		if again, _ := w.mustRun(t, parse(t, tampered), config); text(t, again) != want {
			t.Errorf("%q stays", to)
		}
	}
}

// Another issuer takes out the state of the one before, says so once, and comes to the same as if it had been the
// first.
func TestSwitchIssuer(t *testing.T) {
	w := newWorld(t)
	rolling, managed := w.config(t, plainConfig), w.config(t, managedConfig)
	sealed, _ := w.mustRun(t, parse(t, twoDeployments), rolling)
	switched, r := w.mustRun(t, sealed, managed)
	if warnings := warningsOf(r); len(warnings) != 1 || !strings.Contains(warnings[0], "state of another issuer") {
		t.Errorf("the switch says %v", warnings)
	}
	fresh, _ := w.mustRun(t, parse(t, twoDeployments), managed)
	if diff := cmp.Diff(text(t, fresh), text(t, switched)); diff != "" {
		t.Errorf("a switch differs from a start:\n%s", diff)
	}
	if again, r := w.mustRun(t, switched, managed); text(t, again) != text(t, switched) || len(r.Results()) > 0 {
		t.Errorf("a second render is not quiet: %v", r.Results())
	}
	back, r := w.mustRun(t, switched, rolling)
	if len(warningsOf(r)) != 1 {
		t.Errorf("the way back says %v", warningsOf(r))
	}
	find(t, back, v1alpha1.KindCertificateAuthority, "mtls")
	for _, item := range back {
		if item.GetKind() == "Certificate" {
			t.Errorf("certificate %s is left", item.GetName())
		}
	}
	if again, r := w.mustRun(t, back, rolling); text(t, again) != text(t, back) || len(r.Results()) > 0 {
		t.Errorf("a second render is not quiet: %v", r.Results())
	}
}

func warningsOf(r *report.Report) []string {
	var warnings []string
	for _, result := range r.Results() {
		if result.Severity == "warning" {
			warnings = append(warnings, result.Message)
		}
	}
	return warnings
}

// What only a CertificateAuthority can do is refused, with the way out.
func TestManagedRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*world)
		want   string
	}{
		"revoke":  {func(w *world) { w.revoke = []string{"deployment/web"} }, "cmctl renew"},
		"renew":   {func(w *world) { w.renew = []string{"deployment/web"} }, "cmctl renew -n NAMESPACE"},
		"replace": {func(w *world) { w.replaceCA = true }, "certManager.issuerRef"},
	} {
		w := newWorld(t)
		test.change(w)
		if out, r := w.run(parse(t, twoDeployments), w.config(t, managedConfig)); out != nil || !strings.Contains(strings.Join(r.Errors(), ""), test.want) {
			t.Errorf("%s: %v", name, r.Errors())
		}
	}
}

// With issuance: Never the function is a check here too, and of two Certificates of one identity one goes.
func TestManagedCheck(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, managedConfig)
	rendered, _ := w.mustRun(t, parse(t, twoDeployments), config)
	twice := append([]*kyaml.RNode{}, rendered...)
	copied := find(t, rendered, "Certificate", "meshless-deployment-web").Copy()
	if err := copied.SetName("copied"); err != nil {
		t.Fatal(err)
	}
	if again, _ := w.mustRun(t, append(twice, copied), config); text(t, again) != text(t, rendered) {
		t.Error("a second Certificate of an identity stays")
	}
	config.Spec.Issuance = v1alpha1.IssuanceNever
	for name, test := range map[string]struct {
		items []*kyaml.RNode
		good  bool
	}{"rendered": {rendered, true}, "without Certificates": {withoutKind(rendered, "Certificate"), false}, "raw": {parse(t, twoDeployments), false}} {
		r := &report.Report{}
		pipeline.Run(test.items, config, pipeline.Options{Now: w.now, Mode: pipeline.StoreOrCheck}, r)
		if r.Failed() == test.good {
			t.Errorf("%s: %v", name, r.Errors())
		}
	}
}

// TestChangeForgetsRevocations: cert-manager keeps no revoked keys, so a change to it says which are accepted again.
func TestChangeForgetsRevocations(t *testing.T) {
	w := newWorld(t)
	before, _ := w.mustRun(t, parse(t, twoDeployments), w.config(t, plainConfig))
	w.revoke = []string{"deployment/web"}
	revoked, _ := w.mustRun(t, before, w.config(t, plainConfig))
	w.revoke = nil
	key := svid.KeyDigest(decodeLeaf(t, find(t, before, "Secret", "meshless-deployment-web")))
	_, r := w.mustRun(t, revoked, w.config(t, managedConfig))
	if !strings.Contains(said(t, r), key) {
		t.Errorf("the report does not name the key:\n%s", said(t, r))
	}
}
