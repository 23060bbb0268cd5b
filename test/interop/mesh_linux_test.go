package interop

import (
	"crypto/tls"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/testca"
)

const namespace = "acme-shop"

// member is a workload of the shop with its files as plain PEM: what a program outside the mesh needs to pass for it.
type member struct {
	id, host  string // host is the Service's
	cert, key string // paths
	leaf      tls.Certificate
}

func (m *member) spiffeID() spiffeid.ID { return spiffeid.RequireFromString(m.id) }

// mesh is the shop with keys of one algorithm, its api and db in the lab, and a pod outside the mesh for everything
// foreign.
type mesh struct {
	*lab.Lab
	objects      *lab.Objects
	dir, bundle  string
	api, db, web *member
	apiPod       *station // captured: what runs in it is an app of the mesh
	dbPod        *lab.Pod
	outside      *station // not captured; it stands at the addresses of web's Service
}

func startMesh(t *testing.T, algorithm string) *mesh {
	t.Helper()
	m := &mesh{Lab: lab.NewMeshless(t, nil), dir: t.TempDir()}
	shop := example.Copy(t, "../../examples/shop")
	shop.Edit(t, "mtls.yaml", func(text string) string {
		return strings.Replace(text, "  certificates:\n", "  certificates:\n    keyAlgorithm: "+algorithm+"\n", 1)
	})
	shop.Edit(t, "base/web.yaml", func(text string) string { // a pod without containers has no port of that name
		return strings.Replace(text, "targetPort: http", "targetPort: 8080", 1)
	})
	shop.Issue(t, time.Now())
	var err error
	if m.objects, err = lab.Parse([]byte(shop.Render(t) + "\n---\n" + shop.IdentitySecret(namespace))); err != nil {
		t.Fatal(err)
	}
	m.writeFiles(t, shop)
	if err := m.Apply(m.objects); err != nil {
		t.Fatal(err)
	}
	m.outside = newStation(t, m.AddPod("outside", "foreign"))
	m.dbPod = m.StartPod("StatefulSet/acme-shop/acme-db")
	m.apiPod = newStation(t, m.StartPod("Deployment/acme-shop/acme-api"))
	m.Misdirect(namespace, "acme-web", m.outside.Pod)
	return m
}

// writeFiles opens the sealed keys and writes what a Secret of the namespace and its bundle hold.
func (m *mesh) writeFiles(t *testing.T, shop *example.Example) {
	t.Helper()
	for _, config := range m.objects.ConfigMaps {
		if text, ok := config.Data[api.BundleFile]; ok && config.Namespace == namespace {
			m.bundle = m.write(t, "ca.crt", []byte(text))
		}
	}
	if m.bundle == "" {
		t.Fatalf("no ConfigMap with %s among %d", api.BundleFile, len(m.objects.ConfigMaps))
	}
	for name, workload := range map[string]struct {
		kind string
		into **member
	}{"acme-api": {"deployment", &m.api}, "acme-db": {"statefulset", &m.db}, "acme-web": {"deployment", &m.web}} {
		id := "spiffe://cluster.local/ns/" + namespace + "/" + workload.kind + "/" + name
		for _, secret := range m.objects.Secrets {
			if secret.Annotations["meshless.dev/identity"] != id {
				continue
			}
			leaf := shop.Leaf(t, secret)
			*workload.into = &member{
				id: id, host: name + "." + namespace + ".svc.cluster.local", leaf: leaf,
				cert: m.write(t, name+".crt", secret.Data[api.LeafFile]), key: m.write(t, name+".key", testca.KeyPEM(t, leaf)),
			}
		}
		if *workload.into == nil {
			t.Fatalf("no Secret of %s among %d", id, len(m.objects.Secrets))
		}
	}
}

func (m *mesh) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// service is the address of a Service.
func (m *mesh) service(name string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(m.ServiceIP(namespace, name, 4), port)
}

// TestInterop runs every foreign program against certificates of every key algorithm.
func TestInterop(t *testing.T) {
	for _, algorithm := range v1alpha1.KeyAlgorithms {
		t.Run(algorithm, func(t *testing.T) {
			m := startMesh(t, algorithm)
			t.Run("openssl verify", m.testVerify)
			t.Run("openssl s_client", m.testOpenSSLClient)
			t.Run("openssl s_client is refused", m.testOpenSSLClientRefused)
			t.Run("curl", m.testCurl)
			t.Run("clients", m.testClients)
			t.Run("servers", m.testServers)
			t.Run("curl to openssl s_server", m.testCurlToOpenSSL)
			t.Run("server with a protocol of its own", m.testOwnProtocol)
		})
	}
}
