package pipeline_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// stateObjects are the positions of what the next render believes.
func stateObjects(items []*yaml.RNode) []int {
	var state []int
	for i, item := range items {
		if item.GetAnnotations()[api.IdentityAnnotation] != "" {
			state = append(state, i)
		}
	}
	return state
}

// FuzzState: bytes of the state that a render left are overwritten, cut out or inserted, and the package is rendered
// again at a time when its leaves are due. Whatever was done, there is no panic; a failed render has no output; what
// succeeds has leaves that verify under every bundle, under authorities that were there before or are new, and the CA's
// key was asked for only where the CertificateAuthority still says what it said.
func FuzzState(f *testing.F) {
	w := newWorld(f)
	config := w.config(f, plainConfig)
	rendered, _ := w.mustRun(f, parse(f, twoDeployments), config)
	w.now = start.Add(400 * time.Hour)
	state := stateObjects(rendered)
	if len(state) < 5 {
		f.Fatalf("%d state objects", len(state))
	}
	for i := range state {
		for _, at := range []uint32{0, 40, 200, 700, 1500, 2600} {
			f.Add(uint8(i), at, uint16(1), []byte("A"), uint8(0))
			f.Add(uint8(i), at, uint16(0), []byte("\n  x: y\n"), uint8(1))
			f.Add(uint8(i), at, uint16(300), []byte{}, uint8(2))
			f.Add(uint8(i), at, uint16(20), []byte("-----END CERTIFICATE-----\n"), uint8(3))
		}
	}
	original := authoritiesText(f, rendered)
	f.Fuzz(func(t *testing.T, object uint8, at uint32, cut uint16, insert []byte, how uint8) {
		index := state[int(object)%len(state)]
		before := []byte(rendered[index].MustString())
		from := int(at) % (len(before) + 1)
		to := min(len(before), from+int(cut))
		mutated := slices.Concat(before[:from], insert, before[to:])
		changed, err := (&kio.ByteReader{Reader: bytes.NewReader(mutated), OmitReaderAnnotations: true}).Read()
		if err != nil {
			return
		}
		items := slices.Concat(copies(rendered[:index]), changed, copies(rendered[index+1:]))
		m := []mode{issues, never, builds, sealed}[int(how)%4]
		out, r, opened := w.attempt(t, items, config, m)
		if m != issues && opened > 0 {
			t.Errorf("%s: the CA's key was asked for", m)
		}
		if r.Failed() {
			return
		}
		checkTrust(t, rendered, out, w.now)
		if opened > 0 && rendered[index].GetKind() == v1alpha1.KindCertificateAuthority && authoritiesText(t, items) != original {
			t.Error("the CA's key was asked for, though the CertificateAuthority had been changed")
		}
	})
}

// authoritiesText is who signs according to the CertificateAuthority, and which keys belong to whom; notes, layout and
// revocations aside. Empty where it cannot be read.
func authoritiesText(t testing.TB, items []*yaml.RNode) string {
	t.Helper()
	var out strings.Builder
	for _, item := range items {
		if yaml.IsMissingOrNull(item) || item.YNode().Kind != yaml.MappingNode || item.GetKind() != v1alpha1.KindCertificateAuthority {
			continue
		}
		state, err := v1alpha1.ParseCertificateAuthority(item)
		if err != nil {
			return ""
		}
		for _, a := range state.Spec.Authorities {
			if parsed, err := svid.ParseCertificates([]byte(a.Certificate)); err == nil {
				out.WriteString(string(a.Slot) + svid.KeyDigest(parsed[0]) + string(parsed[0].Raw))
			}
		}
	}
	return out.String()
}

// checkTrust holds what succeeded against what a handshake needs.
func checkTrust(t *testing.T, before, after []*yaml.RNode, now time.Time) {
	t.Helper()
	known := authorities(t, bundleOf(t, before))
	for _, item := range after {
		text, ok := item.GetDataMap()[api.BundleFile]
		if !ok || item.GetKind() != "ConfigMap" {
			continue
		}
		trusted, err := svid.NewBundle(spiffeid.RequireTrustDomainFromString("cluster.local"), authorities(t, text), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, ca := range trusted.Authorities() {
			if made := ca.NotBefore.Equal(now.Add(-10 * time.Minute)); !made && !slices.ContainsFunc(known, ca.Equal) {
				t.Errorf("a bundle trusts %q, which nobody has made", ca.Subject.CommonName)
			}
		}
		for _, name := range []string{"web", "api"} {
			leaf := decodeLeaf(t, find(t, after, "Secret", "meshless-deployment-"+name))
			if id, err := trusted.VerifyLeaf(leaf, now); err != nil || id.Path() != "/ns/prod/deployment/"+name {
				t.Errorf("the leaf of %s verifies as %s, %v", name, id, err)
			}
		}
	}
}
