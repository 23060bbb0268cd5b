//go:build linux

package stage

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"testing"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
)

// Rendered is what a render says that proxies should use.
type Rendered struct {
	Text    string
	Leaves  map[string]*x509.Certificate // by SPIFFE ID
	Bundle  []*x509.Certificate
	Mesh    *meshmap.Map
	secrets map[string]corev1.Secret // by SPIFFE ID
}

// Read reads the manifests of one namespace.
func Read(t *testing.T, text string) *Rendered {
	t.Helper()
	r := &Rendered{Text: text, Leaves: map[string]*x509.Certificate{}, secrets: map[string]corev1.Secret{}}
	objects, err := lab.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range objects.ConfigMaps {
		if c.Annotations[api.IdentityAnnotation] == "" {
			continue
		}
		if bundle, ok := c.Data[api.BundleFile]; ok {
			r.Bundle, err = svid.ParseCertificates([]byte(bundle))
		} else {
			r.Mesh, err = meshmap.Parse([]byte(c.Data[api.MeshFile]))
		}
		if err != nil {
			t.Fatalf("ConfigMap %s: %v", name, err)
		}
	}
	for name, s := range objects.Secrets {
		id := s.Annotations[api.IdentityAnnotation]
		if id == "" {
			continue
		}
		chain, err := svid.ParseCertificates(s.Data[api.LeafFile])
		if err != nil {
			t.Fatalf("Secret %s: %v", name, err)
		}
		r.Leaves[id], r.secrets[id] = chain[0], s
	}
	if len(r.Leaves) == 0 || r.Bundle == nil || r.Mesh == nil {
		t.Fatalf("the manifests hold no state of ours:\n%s", text)
	}
	return r
}

// Open opens a workload's key with the identity, as a thief of both could.
func (r *Rendered) Open(spiffeID string, identity age.Identity) (tls.Certificate, error) {
	secret, ok := r.secrets[spiffeID]
	if !ok {
		return tls.Certificate{}, fmt.Errorf("no Secret of %s", spiffeID)
	}
	return example.Open(secret, identity)
}
