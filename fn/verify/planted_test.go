package verify_test

import (
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/verify"
)

// Authorities, identities and keys that somebody adds to rendered manifests are findings.
func TestPlanted(t *testing.T) {
	good, other := rendered(t), rendered(t)
	authority := func(text string) string {
		bundle := bundleOf(t, text)
		return bundle[strings.Index(bundle, "-----BEGIN") : strings.LastIndex(bundle, "-----END CERTIFICATE-----")+len("-----END CERTIFICATE-----")]
	}
	bundle := bundleOf(t, good)
	own := managed(t, strings.Replace(manifests, "labels: {app: web}\n    spec", "labels: {app: web}\n      annotations: {meshless.dev/tls-secret: mine}\n    spec", 1), "")
	certificate := func(namespace, secret string) string {
		return "---\napiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: x, namespace: " + namespace + "}\nspec: {secretName: " + secret +
			", uris: ['spiffe://cluster.local/ns/prod/deployment/web'], issuerRef: {name: ca, kind: ClusterIssuer}}\n"
	}
	deployment, _, _ := strings.Cut(good, "\n---\n")
	twin := strings.ReplaceAll(strings.Replace(deployment, "apps/v1\n", "example.org/v1\n", 1), "app: web", "app: twin")
	driver := func(volume string) string {
		at := strings.Index(good, "kind: Job")
		return good[:at] + strings.Replace(good[at:], "      volumes:\n", "      volumes:\n      - {name: v, "+volume+"}\n", 1)
	}
	const local = "annotations: {config.kubernetes.io/local-config: 'true'}"
	for name, test := range map[string]struct{ text, want string }{
		"authority":           {strings.Replace(good, bundle, strings.Replace(bundle, authority(good), authority(good)+"\n    "+authority(other), 1), 1), "holds other authorities than the bundle of namespace"},
		"revocation":          {strings.Replace(good, bundle, strings.Replace(bundle, "  annotations:\n", "  annotations:\n    meshless.dev/revoked-keys: "+strings.Repeat("a", 64)+"\n", 1), 1), "metadata.annotations[meshless.dev/revoked-keys]: is"},
		"twin":                {good + "---\n" + twin, "is also the identity of deployment prod/web"},
		"Certificate":         {good + certificate("prod", "z"), "certificate prod/x: spec.uris[0]: is also the identity of deployment prod/web"},
		"own Certificate":     {own + certificate("prod", "mine"), ""},
		"another's namespace": {own + certificate("ops", "mine"), "certificate ops/x: spec.uris[0]: is also the identity of deployment prod/web"},
		"driver's volume":     {driver("csi: {driver: csi.cert-manager.io, volumeAttributes: {csi.cert-manager.io/uri-sans: 'spiffe://cluster.local/ns/prod/deployment/web, x'}}"), "job ops/once: spec.template.spec.volumes[0].csi.volumeAttributes[csi.cert-manager.io/uri-sans]: is also the identity of deployment prod/web"},
		"driver's Secret":     {driver("csi: {driver: x, nodePublishSecretRef: {name: meshless-identity}}"), "spec.volumes[0].csi.nodePublishSecretRef: hands the Secret"},
		"old driver's Secret": {driver("flexVolume: {driver: x, secretRef: {name: meshless-identity}}"), "spec.volumes[0].flexVolume.secretRef: hands the Secret"},
		"age identity":        {good + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: p, namespace: prod}\ndata: {a: b, k: AGE-SECRET-KEY-1QQQ}\n", "configmap prod/p: data.k: holds an age identity"},
		"local Service":       {good + "---\napiVersion: v1\nkind: Service\nmetadata: {name: p, namespace: prod, " + local + "}\nspec: {selector: {app: web}, ports: [{port: 81}]}\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if test.text == good {
				t.Fatal("nothing was changed")
			}
			got := said(t, test.text)
			if (test.want == "") != (got == "") || !strings.Contains(got, test.want) || strings.Contains(got, "AGE-SECRET") {
				t.Errorf("said %q, want %q", got, test.want)
			}
		})
	}
}

// What nobody applies may stand twice, and holds against a config as it is.
func TestAgainstTwice(t *testing.T) {
	const kustomization = "---\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
	text, config := renderedBy(t, manifests+kustomization+"resources: [a]\n"+kustomization+"resources: [b]\n", func(*v1alpha1.Spec) {})
	config.Spec.Issuance = v1alpha1.IssuanceNever
	r := &report.Report{}
	items := parse(t, text)
	verify.Against(items, pipeline.Run(items, config, pipeline.Options{Now: now}, r), r)
	if errs := r.Errors(); len(errs) > 0 {
		t.Error(errs)
	}
}
