package pipeline_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/sopstest"
)

const sopsConfig = `
apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: mtls}
spec:
  sealing: {format: SOPS, recipients: [CLUSTER]}
  certificates: {ca: {recipients: [CA_RECIPIENT]}}
`

// openSOPS decrypts the key of a Secret as Flux would; test/sops lets Flux's own code do it.
func openSOPS(t testing.TB, secret *yaml.RNode, identity age.Identity) []byte {
	t.Helper()
	text, err := sopstest.Open(secret.YNode(), []age.Identity{identity}, "data", api.PlainKeyFile)
	if err != nil {
		t.Fatalf("secret %s: the sealed key %v", secret.GetName(), err)
	}
	key, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		t.Fatalf("secret %s: what is sealed is no value of a Secret: %v", secret.GetName(), err)
	}
	return key
}

// explainKey replaces what is sealed by what it means.
func (w *world) explainKey(t testing.TB, item *yaml.RNode) {
	t.Helper()
	metadata := node.Get(item.YNode(), seal.SOPSField)
	if metadata == nil {
		set(t, item, "<its key, sealed to the cluster>", "data", api.SealedKeyFile)
		return
	}
	set(t, item, "<its key, encrypted by SOPS>", "data", api.PlainKeyFile)
	set(t, item, "<MAC>", seal.SOPSField, "mac")
	for _, entry := range node.Get(metadata, "age").Content {
		node.Get(entry, "recipient").SetString("<the cluster>")
		node.Get(entry, "enc").SetString("<data key, sealed to the cluster>")
	}
}

func web(t testing.TB, items []*yaml.RNode) *yaml.RNode {
	t.Helper()
	return find(t, items, "Secret", "meshless-deployment-web")
}

// Another format is another key, never the old one sealed again; afterwards all is quiet. It changes the volume, so
// pods roll once.
func TestSwitchBetweenAgeAndSOPS(t *testing.T) {
	w := newWorld(t)
	items := parse(t, twoDeployments)
	var before *yaml.RNode
	for i, configText := range []string{plainConfig, sopsConfig, plainConfig} {
		config, sops := w.config(t, configText), i == 1
		w.noIdentity = false
		out, r := w.mustRun(t, items, config)
		if i > 0 {
			for _, result := range r.Results() {
				if want := "spec.sealing.format changed to " + config.Spec.Sealing.Format; !strings.Contains(result.Message, want) {
					t.Errorf("switching says %q, want %q", result.Message, want)
				}
			}
			if len(r.Results()) != 2 {
				t.Errorf("switching two workloads gives %d results", len(r.Results()))
			}
			if before.GetAnnotations()[api.PublicKeyAnnotation] == web(t, out).GetAnnotations()[api.PublicKeyAnnotation] {
				t.Error("the key was sealed again instead of made anew")
			}
		}
		data := web(t, out).GetDataMap()
		if _, ok := data[api.PlainKeyFile]; ok != sops {
			t.Errorf("%s in the Secret: %v", api.PlainKeyFile, ok)
		}
		if _, ok := data[api.SealedKeyFile]; ok == sops {
			t.Errorf("%s in the Secret: %v", api.SealedKeyFile, ok)
		}
		if (node.Get(web(t, out).YNode(), seal.SOPSField) != nil) != sops {
			t.Error("the field sops came or went")
		}
		if pod := find(t, out, "Deployment", "web").MustString(); strings.Contains(pod, api.IdentityFile) == sops {
			t.Error("the age identity is mounted with SOPS, or not mounted with Age")
		}
		w.noIdentity = true
		if again, _ := w.mustRun(t, out, config); text(t, again) != text(t, out) {
			t.Errorf("render %d is not quiet afterwards", i)
		}
		items, before = out, web(t, out)
	}
}

// A render that may not issue says that the format changed, and changes nothing.
func TestBuildAfterSwitchOfFormat(t *testing.T) {
	w := newWorld(t)
	out, _ := w.mustRun(t, parse(t, twoDeployments), w.config(t, plainConfig))
	w.built = true
	built, r := w.run(withoutKind(out, "CertificateAuthority"), w.config(t, sopsConfig))
	if said := strings.Join(r.Errors(), "\n"); built != nil || !strings.Contains(said, "spec.sealing.format changed to SOPS; this render may not issue") {
		t.Errorf("a build after the switch says %q", said)
	}
}

// A change of recipients makes a new key for whom it concerns; SOPS names its recipients, so one that was exchanged by
// hand is seen as well.
func TestSOPSRecipients(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, sopsConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	old, other := w.cluster, newIdentity(t)

	changed := w.config(t, strings.ReplaceAll(sopsConfig, "[CLUSTER]", "[CLUSTER, "+other.Recipient().String()+"]"))
	both, r := w.mustRun(t, out, changed)
	if len(r.Results()) != 2 || !strings.Contains(r.Results()[0].Message, "other recipients (sops.age)") {
		t.Errorf("a second recipient: %v", r.Results())
	}
	for _, identity := range []age.Identity{old, other} {
		openSOPS(t, web(t, both), identity)
	}
	w.noIdentity = true
	if again, _ := w.mustRun(t, both, changed); text(t, again) != text(t, both) {
		t.Error("two recipients are not quiet afterwards")
	}
	w.noIdentity = false

	byHand := out
	recipient := node.Get(web(t, byHand).YNode(), seal.SOPSField, "age").Content[0]
	node.Get(recipient, "recipient").Value = other.Recipient().String()
	mended, r := w.mustRun(t, byHand, config)
	if len(r.Results()) != 1 || !strings.Contains(r.Results()[0].Message, "other recipients (sops.age)") {
		t.Errorf("a recipient that was exchanged by hand: %v", r.Results())
	}
	openSOPS(t, web(t, mended), old)
}

// Post-quantum recipients, and one namespace with its own.
func TestSOPSRecipientsOfANamespace(t *testing.T) {
	w := newWorld(t)
	quantum, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	config := w.config(t, strings.Replace(sopsConfig, "recipients: [CLUSTER]}", "recipients: [CLUSTER], namespaces: {prod: ["+quantum.Recipient().String()+"]}}", 1))
	out, _ := w.mustRun(t, parse(t, twoDeployments+strings.ReplaceAll(oneMore, "prod", "ops")), config)
	openSOPS(t, web(t, out), quantum)
	openSOPS(t, find(t, out, "Secret", "meshless-deployment-late"), w.cluster)
	if _, err := sopstest.Open(web(t, out).YNode(), []age.Identity{w.cluster}, "data", api.PlainKeyFile); err == nil {
		t.Error("the recipient of all namespaces opens the key of one that has its own")
	}
}

// What was damaged in Git is made anew, or is an error with the way out where a key lies open or the certificate cannot
// be read.
func TestDamagedSOPS(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, sopsConfig)
	good, _ := w.mustRun(t, parse(t, twoDeployments), config)
	open := base64.StdEncoding.EncodeToString([]byte("-----BEGIN PRIVATE KEY-----\n"))
	for name, test := range map[string]struct {
		damage func(secret *yaml.Node)
		issued string // the reason for a new key …
		failed string // … or the error
	}{
		"metadata lost": {func(n *yaml.Node) { node.Drop(n, seal.SOPSField) }, "tls.key cannot be decrypted, since the field sops beside data is missing", ""},
		"MAC lost":      {func(n *yaml.Node) { node.Drop(node.Get(n, seal.SOPSField), "mac") }, "sops.mac is no MAC", ""},
		"key lost":      {func(n *yaml.Node) { node.Drop(node.Get(n, "data"), "tls.key") }, "tls.key is not encrypted by SOPS", ""},
		"key cut":       {func(n *yaml.Node) { k := node.Get(n, "data", "tls.key"); k.Value = k.Value[:100] }, "tls.key is not encrypted by SOPS", ""},
		"decrypted":     {func(n *yaml.Node) { node.Get(n, "data", "tls.key").Value = open; node.Drop(n, seal.SOPSField) }, "", "holds a private key in the clear; consider it leaked"},
		"in the clear":  {func(n *yaml.Node) { node.Get(n, "data", "tls.key").Value = open }, "", "holds a private key in the clear; consider it leaked"},
		"leaf encrypted": {func(n *yaml.Node) {
			d := node.Get(n, "data")
			node.Get(d, "tls.crt").Value = node.Get(d, "tls.key").Value
		}, "", "data[tls.crt]: is encrypted by SOPS"},
	} {
		t.Run(name, func(t *testing.T) {
			var items []*yaml.RNode
			for _, item := range good {
				items = append(items, item.Copy())
			}
			test.damage(web(t, items).YNode())
			out, r := w.run(items, config)
			if said := strings.Join(r.Errors(), "\n"); test.failed != "" || said != "" {
				if out != nil || test.failed == "" || !strings.Contains(said, test.failed) {
					t.Errorf("the render says %q, want %q", said, test.failed)
				}
				return
			}
			if results := r.Results(); len(results) != 1 || !strings.Contains(results[0].Message, test.issued) {
				t.Errorf("the render says %v, want %q", results, test.issued)
			}
			openSOPS(t, web(t, out), w.cluster)
		})
	}
}

// A renewal keeps what others wrote into the Secret, and replaces the whole of what SOPS needs.
func TestSOPSRenewalKeepsTheRest(t *testing.T) {
	w := newWorld(t)
	config := w.config(t, sopsConfig)
	out, _ := w.mustRun(t, parse(t, twoDeployments), config)
	secret := web(t, out)
	secret.YNode().HeadComment = "# watched by team web"
	before := secret.Copy()
	w.now = start.Add(400 * time.Hour)
	renewed, _ := w.mustRun(t, out, config)
	after := web(t, renewed)
	if !strings.Contains(after.MustString(), "# watched by team web") {
		t.Error("the comment is lost")
	}
	openSOPS(t, after, w.cluster)
	if got, want := node.Get(after.YNode(), seal.SOPSField, "lastmodified").Value, w.now.Format(time.RFC3339); got != want {
		t.Errorf("lastmodified is %s, want %s", got, want)
	}
	keys := func(n *yaml.RNode) []string {
		names, err := n.Fields()
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if diff := cmp.Diff(keys(before), keys(after)); diff != "" {
		t.Errorf("the order of fields changed:\n%s", diff)
	}
}
