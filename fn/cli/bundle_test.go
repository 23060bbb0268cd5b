package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/cli"
	"github.com/meshless-dev/meshless/internal/svid"
)

// mesh is a kpt package of one Deployment, in a trust domain of its own, with more lines for the spec.
func mesh(t *testing.T, trustDomain, spec string) (folder, caIdentity string) {
	t.Helper()
	folder = t.TempDir()
	cluster, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"Kptfile": "apiVersion: kpt.dev/v1\nkind: Kptfile\nmetadata: {name: pkg}\npipeline: {mutators: [{image: fn, configPath: mtls.yaml}]}\n",
		"mtls.yaml": "apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls, annotations: {config.kubernetes.io/local-config: \"true\"}}\nspec:\n  trustDomain: " + trustDomain +
			"\n  sealing: {recipients: [" + cluster.Recipient().String() + "]}\n  certificates: {ca: {recipients: [" + ca.Recipient().String() + "], signingPeriod: 480h}}\n" + spec,
		"web.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: prod}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n" +
			"    spec: {containers: [{name: web, image: web:1}]}\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder, ca.String()
}

// run is a command that must succeed; its output is returned.
func run(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := cli.Main(args, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("meshless %s: %s", strings.Join(args, " "), errs.String())
	}
	return out.String()
}

// TestBundleOverTime: at every render of a year the document parses, holds exactly what the ConfigMap publishes, and
// its sequence number grows exactly when the authorities change.
func TestBundleOverTime(t *testing.T) {
	slow(t)
	folder, identity := mesh(t, "cluster.local", "")
	t.Setenv("MESHLESS_CA_IDENTITY", identity)
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	var last uint64
	var lastText string
	changes := 0
	for at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC); at.Before(time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)); at = at.Add(4 * 24 * time.Hour) {
		run(t, "issue", "--now", at.Format(time.RFC3339), folder)
		text := run(t, "bundle", folder)
		bundle, err := spiffebundle.Parse(td, []byte(run(t, "bundle", "-o", "spiffe", folder)))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(svid.EncodeCertificates(bundle.X509Authorities()...)); got != text {
			t.Fatalf("%s: the two forms differ", at)
		}
		sequence, ok := bundle.SequenceNumber()
		if hint, hinted := bundle.RefreshHint(); !ok || !hinted || hint != 6*time.Hour {
			t.Fatal("sequence number or refresh hint is missing")
		}
		if (sequence > last) != (text != lastText) || sequence < last {
			t.Fatalf("%s: sequence %d after %d, the authorities changed: %t", at, sequence, last, text != lastText)
		}
		if text != lastText {
			changes++
		}
		last, lastText = sequence, text
	}
	if changes < 10 {
		t.Errorf("the bundle changed %d times; does this test still roll the CA?", changes)
	}
}

// TestFederateTwoPackages: what one mesh prints is what the other takes, in both forms, and gives the same map.
func TestFederateTwoPackages(t *testing.T) {
	other, _ := mesh(t, "other.example", "")
	run(t, "issue", other)
	indent := func(text string) string {
		return "      " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
	}
	var maps []string
	for _, format := range []string{"pem", "spiffe"} {
		ours, _ := mesh(t, "cluster.local", "  federation:\n  - trustDomain: other.example\n    cidrs: [10.7.0.0/16]\n    bundle: |\n"+indent(run(t, "bundle", "-o", format, other))+
			"\n  authorization: {rules: [{to: {name: web, namespace: prod}, from: [{spiffeID: spiffe://other.example/ns/prod/deployment/*}]}]}\n")
		run(t, "issue", ours)
		run(t, "verify", ours)
		text, err := os.ReadFile(filepath.Join(ours, "mtls/prod/mesh.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		maps = append(maps, string(text))
		if graph := run(t, "graph", ours); !strings.Contains(graph, "trust domain other.example") {
			t.Errorf("the graph does not name the other trust domain:\n%s", graph)
		}
		before := contentsOf(t, ours)
		run(t, "issue", ours)
		if contentsOf(t, ours) != before {
			t.Error("a second render changes something")
		}
	}
	if maps[0] != maps[1] || !strings.Contains(maps[0], "-----BEGIN CERTIFICATE-----") {
		t.Errorf("PEM and SPIFFE bundle give different maps:\n%s\n%s", maps[0], maps[1])
	}
}

// TestBundleOfTwoStates: manifests that publish different authorities are of two states, and neither is what others
// should trust.
func TestBundleOfTwoStates(t *testing.T) {
	both := t.TempDir()
	for _, name := range []string{"a", "b"} {
		folder, _ := mesh(t, "cluster.local", "")
		run(t, "issue", folder)
		data, err := os.ReadFile(filepath.Join(folder, "mtls/prod/bundle.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(both, name+".yaml"), bytes.Replace(data, []byte("namespace: prod"), []byte("namespace: "+name), 1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	if code := cli.Main([]string{"bundle", both}, strings.NewReader(""), &out, &errs); code != 1 || out.Len() > 0 || !strings.Contains(errs.String(), "publish different authorities") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errs.String())
	}
}

func contentsOf(t *testing.T, folder string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all.WriteString(path + "\n" + string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
