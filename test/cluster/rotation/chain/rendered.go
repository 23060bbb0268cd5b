//go:build e2e && linux

package chain

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Rendered is what a render says that proxies should use.
type Rendered struct {
	Text    string
	Leaves  map[string]*x509.Certificate // by SPIFFE ID
	Bundle  []*x509.Certificate
	Mesh    *meshmap.Map
	secrets map[string]object // by SPIFFE ID
}

// object is what this package reads of Secrets and ConfigMaps.
type object struct {
	Kind     string
	Metadata struct {
		Name        string
		Annotations map[string]string
	}
	Data map[string]string
}

// Read reads the manifests of one namespace.
func Read(t *testing.T, text string) *Rendered {
	t.Helper()
	r := &Rendered{Text: text, Leaves: map[string]*x509.Certificate{}, secrets: map[string]object{}}
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		if !strings.Contains(document, api.IdentityAnnotation) {
			continue // of Kubernetes' own kinds: their data may be anything
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if err := r.add(o); err != nil {
			t.Fatalf("%s %s: %v", o.Kind, o.Metadata.Name, err)
		}
	}
	if len(r.Leaves) == 0 || r.Bundle == nil || r.Mesh == nil {
		t.Fatalf("the manifests hold no state of ours:\n%s", text)
	}
	return r
}

func (r *Rendered) add(o object) (err error) {
	if text, ok := o.Data[api.BundleFile]; ok {
		r.Bundle, err = svid.ParseCertificates([]byte(text))
		return err
	}
	if text, ok := o.Data[api.MeshFile]; ok {
		r.Mesh, err = meshmap.Parse([]byte(text))
		return err
	}
	leaf, err := o.value(api.LeafFile)
	if err != nil {
		return err
	}
	certificates, err := svid.ParseCertificates(leaf)
	if err != nil {
		return err
	}
	id := o.Metadata.Annotations[api.IdentityAnnotation]
	r.Leaves[id], r.secrets[id] = certificates[0], o
	return nil
}

func (o object) value(key string) (out []byte, err error) {
	err = yaml.Unmarshal(fmt.Appendf(nil, "%q", o.Data[key]), &out) // base64, as []byte is in JSON
	return out, err
}

// Open opens a workload's key with the identity, as a thief of both could.
func (r *Rendered) Open(spiffeID string, identity age.Identity) (tls.Certificate, error) {
	secret, ok := r.secrets[spiffeID]
	if !ok {
		return tls.Certificate{}, fmt.Errorf("no Secret of %s", spiffeID)
	}
	sealed, err := secret.value(api.SealedKeyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	opened, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identity)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := io.ReadAll(opened)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := secret.value(api.LeafFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(leaf, key)
}
