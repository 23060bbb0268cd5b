package simulation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

var (
	trustDomain = spiffeid.RequireTrustDomainFromString("cluster.local")
	start       = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

const configText = `
apiVersion: meshless.dev/v1alpha1
kind: MutualTLS
metadata: {name: mtls}
spec:
  sealing: {recipients: [CLUSTER]}
  certificates: {ca: {recipients: [CA_RECIPIENT], signingPeriod: 2160h}CERTIFICATES}
`

// workload is a Deployment or a StatefulSet with a Service.
type workload struct{ namespace, kind, name string }

func (w workload) key() string {
	return fmt.Sprintf("/ns/%s/%s/%s", w.namespace, strings.ToLower(w.kind), w.name)
}

func (w workload) id() string { return trustDomain.IDString() + w.key() }

// newWorkload is the next one that developers want.
func (s *simulation) newWorkload() workload {
	n := s.git.created
	s.git.created++
	w := workload{fmt.Sprintf("team-%d", n%s.profile.namespaces), "Deployment", fmt.Sprintf("app-%d", n)}
	if n%5 == 0 {
		w.kind = "StatefulSet"
	}
	s.git.wanted = append(s.git.wanted, w)
	s.place(w)
	return w
}

func (w workload) manifests(t testing.TB) []*yaml.RNode {
	t.Helper()
	text := strings.NewReplacer("KIND", w.kind, "NAMESPACE", w.namespace, "NAME", w.name).Replace(`
apiVersion: apps/v1
kind: KIND
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      containers: [{name: app, image: app:1, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec: {selector: {app: NAME}, ports: [{port: 80, targetPort: http}]}
`)
	items, err := (&kio.ByteReader{Reader: strings.NewReader(text), OmitReaderAnnotations: true}).Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if err := item.PipeE(yaml.SetAnnotation(ownerAnnotation, w.key())); err != nil {
			t.Fatal(err)
		}
	}
	return items
}

// ownerAnnotation says which workload a manifest belongs to, for those who edit it.
const ownerAnnotation = "simulation/owner"

func keyOf(item *yaml.RNode) (string, bool) {
	key, ok := item.GetAnnotations()[ownerAnnotation]
	return key, ok
}
