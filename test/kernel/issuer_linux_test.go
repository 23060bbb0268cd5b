package kernel

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/testca"
)

// issuer stands for the corporate PKI and for cert-manager: a root, and the intermediate that signs, both without a
// SPIFFE ID.
type issuer struct {
	root   *testca.CA
	middle tls.Certificate
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	root := testca.New(t, "cluster.local", func(c *x509.Certificate) { c.URIs, c.MaxPathLenZero = nil, false })
	return &issuer{root: root, middle: root.Issue(t, "spiffe://cluster.local", func(c *x509.Certificate) {
		c.Subject.CommonName, c.URIs, c.ExtKeyUsage, c.IsCA, c.KeyUsage = "intermediate", nil, nil, true, x509.KeyUsageCertSign
	})}
}

// secret is what cert-manager would write for a Certificate: leaf and intermediate, key, root.
func (i *issuer) secret(t *testing.T, namespace, name, id string, dnsNames ...string) corev1.Secret {
	t.Helper()
	leaf := testca.Below(t, i.middle).Issue(t, id, func(c *x509.Certificate) { c.DNSNames = dnsNames })
	return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{
		api.LeafFile:     svid.EncodeCertificates(leaf.Leaf, i.middle.Leaf),
		api.PlainKeyFile: testca.KeyPEM(t, leaf),
		api.BundleFile:   i.root.PEM(),
	}}
}

// fulfil adds the Secrets of every Certificate among rendered manifests.
func (i *issuer) fulfil(t *testing.T, manifests string, objects *lab.Objects) (count int) {
	t.Helper()
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		var c struct {
			Kind     string
			Metadata struct{ Namespace string }
			Spec     struct {
				SecretName     string
				URIs, DNSNames []string
			}
		}
		if err := yaml.Unmarshal([]byte(document), &c); err != nil {
			t.Fatal(err)
		}
		if c.Kind == "Certificate" {
			objects.Secrets[c.Metadata.Namespace+"/"+c.Spec.SecretName] = i.secret(t, c.Metadata.Namespace, c.Spec.SecretName, c.Spec.URIs[0], c.Spec.DNSNames...)
			count++
		}
	}
	return count
}

// TestChangingTheIssuer walks the steps of docs/certificates.md from sealed keys to cert-manager, with pods of before
// and after side by side; db brings a Secret of its own all the while. Pods of both kinds ask each other, in every
// mixture, and every one is answered.
func TestChangingTheIssuer(t *testing.T) {
	r, pki := &running{Lab: lab.NewMeshless(t, nil)}, newIssuer(t)
	r.shop = example.Copy(t, "../../examples/shop")
	r.shop.Edit(t, "base/db.yaml", func(text string) string {
		labels := "      labels: {app.kubernetes.io/name: db, app.kubernetes.io/part-of: shop}\n    spec:\n"
		return strings.Replace(text, labels, "      annotations: {meshless.dev/tls-secret: db-tls}\n"+labels, 1)
	})
	r.shop.Edit(t, "mtls.yaml", func(text string) string { // first step: trust the other CA beside
		pem := "\n" + strings.TrimSpace(string(pki.root.PEM()))
		return regexp.MustCompile(`ca: \{recipients: (\[.*\])\}`).ReplaceAllString(text, "ca:\n      recipients: $1\n      additional: |"+strings.ReplaceAll(pem, "\n", "\n        "))
	})
	r.shop.Issue(t, time.Now())
	r.objects = r.render(t)
	own := pki.secret(t, "acme-shop", "db-tls", id("statefulset/acme-db"))
	r.objects.Secrets["acme-shop/db-tls"] = own
	r.start(t, r.objects)
	r.askAll(t, 10)

	trust := bundleOf(t, r.objects, "acme-shop")           // second step
	r.shop.Edit(t, "mtls.yaml", func(text string) string { // third step
		from, to := strings.Index(text, "  sealing:\n"), strings.Index(text, "  authorization:\n")
		return text[:from] + "  certificates:\n    issuer: CertManager\n    certManager: {issuerRef: {name: pki, kind: ClusterIssuer}, bundle: {configMap: mesh-trust}}\n" + text[to:]
	})
	r.shop.Issue(t, time.Now())
	manifests := r.shop.Render(t)
	next := parse(t, manifests)
	if n := pki.fulfil(t, manifests, next); n != 3 {
		t.Errorf("there are %d Certificates, want those of api, web and report, and none of db", n)
	}
	next.ConfigMaps["acme-shop/mesh-trust"] = corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "acme-shop", Name: "mesh-trust"}, Data: map[string]string{"ca.crt": trust}}
	for key, w := range next.Workloads {
		w.Name += "-next" // of the pod; its identity is that of the workload
		next.Workloads[key] = w
	}
	before := []*lab.Pod{r.db, r.api, r.web}
	r.start(t, next)
	r.askEach(t, [3][2]*lab.Pod{{before[0], r.db}, {before[1], r.api}, {before[2], r.web}})
	for _, p := range before {
		if _, err := p.Stop(); err != nil {
			t.Error(err)
		}
	}
	next.ConfigMaps["acme-shop/mesh-trust"].Data["ca.crt"] = string(pki.root.PEM()) // fourth step
	if err := r.Apply(next); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*lab.Pod{r.db, r.api, r.web} {
		if err := p.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	r.askAll(t, 10)
}

// start applies objects and starts db, api and web of them.
func (r *running) start(t *testing.T, objects *lab.Objects) {
	t.Helper()
	if err := r.Apply(objects); err != nil {
		t.Fatal(err)
	}
	if r.out == nil {
		r.out = r.AddPod("outside", "client")
	}
	r.db = r.StartPod("StatefulSet/acme-shop/acme-db")
	r.api = r.StartPod("Deployment/acme-shop/acme-api")
	r.web = r.StartPod("Deployment/acme-shop/acme-web")
}

// askEach asks from a web of before and one of after, which ask an api of before and one of after, which ask a db of
// before and one of after.
func (r *running) askEach(t *testing.T, pods [3][2]*lab.Pod) {
	t.Helper()
	const namespace, db, api = "acme-shop", "acme-db", "acme-api"
	times := [2]string{"before", "after"}
	for n := range 8 {
		i, j, k := n&1, n>>1&1, n>>2
		r.Misdirect(namespace, db, pods[0][i])
		r.Misdirect(namespace, api, pods[1][j])
		for _, family := range []int{4, 6} {
			url := "http://" + netip.AddrPortFrom(r.ServiceIP(namespace, api, family), 8080).String() + "/orders"
			if err := ask(pods[2][k].HTTP(), url); err != nil {
				t.Errorf("web of %s, api of %s, db of %s, over IPv%d: %v", times[k], times[j], times[i], family, err)
			}
		}
	}
	r.Misdirect(namespace, db, nil)
	r.Misdirect(namespace, api, nil)
}

// askAll asks web n times over each family, which asks api, which asks db.
func (r *running) askAll(t *testing.T, n int) {
	t.Helper()
	var failed []error
	for range n {
		for _, family := range []int{4, 6} {
			if err := ask(r.out.HTTP(), r.webURL(family)); err != nil {
				failed = append(failed, fmt.Errorf("over IPv%d: %w", family, err))
			}
		}
	}
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(failed), 2*n, slices.Compact(failed)[0])
	}
}

// bundleOf is the trust bundle of a namespace with one package.
func bundleOf(t *testing.T, o *lab.Objects, namespace string) string {
	t.Helper()
	for key, config := range o.ConfigMaps {
		if pkg := config.Annotations[api.PackageAnnotation]; key == namespace+"/"+api.BundleName(pkg) {
			return config.Data[api.BundleFile]
		}
	}
	t.Fatalf("no bundle in %s", namespace)
	return ""
}
