//go:build e2e && linux

package callers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
)

const (
	namespace = "callers"
	objects   = "callers-objects" // where the webhooks have a say
)

// TestAPIServer deploys the hook once; the API server, and whoever else tries, call it.
func TestAPIServer(t *testing.T) {
	stage.NewNamespace(t, namespace)
	stage.NewNamespace(t, objects)
	manifests, err := os.ReadFile("testdata/hook.yaml")
	if err != nil {
		t.Fatal(err)
	}
	secret, bundle := certificate(t, "hook."+namespace+".svc")
	stage.Must(t, secret, "-n", namespace, "apply", "-f", "-")
	removeHooks(t)
	t.Cleanup(func() { removeHooks(t) }) // they are of no namespace, and what they fail would be the next test's
	stage.DeployPackage(t, namespace, stage.Package(t, namespace, strings.ReplaceAll(string(manifests), "CA-BUNDLE", bundle), ""))
	stage.Rollout(t, namespace, "deployment/hook")
	stage.Ready(t, namespace, "pod/client")
	t.Run("webhooks of admission", testAdmission)
	t.Run("an aggregated API", testAggregated)
	t.Run("conversion of versions", testConversion)
	t.Run("plaintext is refused", testPlaintext)
	t.Run("the mesh gets in", testMesh)
}

// removeHooks removes what has no namespace.
func removeHooks(t *testing.T) {
	t.Helper()
	for _, object := range []string{
		"validatingwebhookconfiguration/callers-test", "mutatingwebhookconfiguration/callers-test",
		"apiservice/v1alpha1.hook.meshless.test", "crd/widgets.callers.meshless.test",
	} {
		if _, err := stage.Kubectl("", "delete", object, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	}
}

// testAdmission creates as people do. That the hook is really asked is seen from what it refuses and adds; that it
// would fail without an answer, from its failurePolicy.
func testAdmission(t *testing.T) {
	for n := range 5 {
		var out string
		stage.Poll(t, 20*time.Second, func() (err error) { // the API server learns of configurations a moment later
			out, err = stage.Kubectl("", "-n", objects, "create", "configmap", fmt.Sprintf("taken-%d", n), "-o", "yaml")
			return err
		})
		if n > 0 && !strings.Contains(out, "seen-by: hook") {
			t.Errorf("the hook added no label:\n%s", out)
		}
	}
	denied := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: denied, labels: {deny: please}}\n"
	if _, err := stage.Kubectl(denied, "-n", objects, "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "the hook denies it") {
		t.Errorf("what the hook denies: %v", err)
	}
}

func testAggregated(t *testing.T) {
	stage.Must(t, "", "wait", "--for=condition=Available", "apiservice/v1alpha1.hook.meshless.test", "--timeout=60s")
	for range 5 {
		if out := stage.Must(t, "", "get", "--raw", "/apis/hook.meshless.test/v1alpha1/namespaces/"+objects+"/readings"); !strings.Contains(out, `"value":42`) {
			t.Errorf("readings: %s", out)
		}
	}
}

// testConversion writes in one version and reads in the other.
func testConversion(t *testing.T) {
	stage.Must(t, "", "wait", "--for=condition=Established", "crd/widgets.callers.meshless.test", "--timeout=60s")
	widget := "apiVersion: callers.meshless.test/v1\nkind: Widget\nmetadata: {name: one}\nspec: {size: 3}\n"
	stage.Eventually(t, func() error { // until the API server serves the new kind
		_, err := stage.Kubectl(widget, "-n", objects, "apply", "-f", "-")
		return err
	})
	if out := stage.Must(t, "", "-n", objects, "get", "widgets.v2.callers.meshless.test", "one", "-o", "yaml"); !strings.Contains(out, "callers.meshless.test/v2") || !strings.Contains(out, "size: 3") {
		t.Errorf("as version 2:\n%s", out)
	}
}

// testPlaintext knocks at the pods from the node: TLS of the hook's own authority gets in, the control; plaintext does
// not, at no port, and at the port beside neither does TLS.
func testPlaintext(t *testing.T) {
	for _, pod := range stage.Pods(t, namespace, "app=hook") {
		ip := netip.MustParseAddr(pod.Status.PodIP)
		if !stage.Here(t, ip) {
			return
		}
		secure := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		response, err := secure.Get("https://" + netip.AddrPortFrom(ip, 8443).String() + "/healthz")
		if err != nil {
			t.Errorf("the control, TLS of the app's own: %v", err)
		} else {
			response.Body.Close()
		}
		for _, port := range []uint16{8443, 8080} {
			if answer, err := ask(netip.AddrPortFrom(ip, port)); len(answer) > 0 {
				t.Errorf("plaintext at port %d of %s is answered with %q (%v)", port, pod.Name, answer, err)
			}
		}
		if response, err := secure.Get("https://" + netip.AddrPortFrom(ip, 8080).String() + "/healthz"); err == nil {
			response.Body.Close()
			t.Errorf("TLS of others gets in at port 8080 of %s", pod.Name)
		}
	}
}

// ask sends a request in plaintext, and returns what comes until the connection ends.
func ask(to netip.AddrPort) ([]byte, error) {
	conn, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	_, err = io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n")
	answer, failed := io.ReadAll(conn)
	return answer, errors.Join(err, failed)
}

// testMesh: clients in the mesh reach the port beside by mutual TLS, as ever.
func testMesh(t *testing.T) {
	if got := stage.Call(t, namespace, "client", "client", "http://hook/")[0]; got.Error != "" || !got.ByProxy() {
		t.Errorf("from within the mesh: %+v", got)
	}
}

// certificate is a Secret with a certificate for the name, and the authority in base64.
func certificate(t *testing.T, name string) (secret, bundle string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	bundle = encode("CERTIFICATE", der)
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: hook-tls}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n", bundle, encode("PRIVATE KEY", pkcs8)), bundle
}
