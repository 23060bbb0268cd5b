package certs_test

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/svid"
)

// FuzzAuthorities: whatever a CertificateAuthority says, at whatever time, it is refused or rolls to a list that says
// the same when it is written and read again, that has one who signs or will, and that is not due again at once.
func FuzzAuthorities(f *testing.F) {
	p := policy("ECDSA-P256")
	first := roll(f, p, nil, start)
	second := roll(f, p, first, start.Add(p.SigningPeriod))
	leaf := issue(f, p, certs.Request{ID: web}, first[0], start)
	replaced, err := second.Replace(start.Add(p.SigningPeriod))
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range []certs.Authorities{first, second, replaced, certs.Recover(second.Certificates(), start), nil} {
		for _, a := range l {
			if a.Slot != v1alpha1.SlotRetired {
				a.SealedKey = "sealed"
			}
		}
		text, err := sigsyaml.Marshal(map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": v1alpha1.KindCertificateAuthority, "spec": l.State(td, certs.Revocations{certs.Revoke(leaf.Certificate)})})
		if err != nil {
			f.Fatal(err)
		}
		for _, hours := range []int16{0, 2160, 2900, 8000, -1} {
			f.Add(string(text), hours)
		}
		f.Add(strings.Replace(string(text), "Next", "Active", 1), int16(0))
		f.Add(strings.Replace(string(text), "2026-", "9999-", 1), int16(10))
		f.Add(strings.Replace(string(text), "MII", "MIJ", 1), int16(10))
	}
	request := certs.Request{ID: web, Stored: store(leaf, certs.Request{})}
	f.Fuzz(func(t *testing.T, text string, hours int16) {
		n, err := yaml.Parse(text)
		if err != nil || node.CheckItem(n) != nil {
			return
		}
		state, err := v1alpha1.ParseCertificateAuthority(n)
		if err != nil {
			return
		}
		now := start.Add(time.Duration(hours) * time.Hour)
		list, err := certs.ParseAuthorities(state, td)
		if err != nil || list.CheckTimes(now) != nil {
			return
		}
		revoked := certs.Revocations(state.Spec.Revoked).Extend([]*x509.Certificate{leaf.Certificate})
		rolled, err := p.Roll(list.Extend([]*x509.Certificate{leaf.Certificate}), leaf.Certificate.NotAfter, now)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := p.Roll(rolled, leaf.Certificate.NotAfter, now); err != nil || !slices.Equal(again, rolled) {
			t.Errorf("rolled to %s, and at once to %s (%v)", slots(rolled), slots(again), err)
		}
		for _, a := range rolled {
			if a.Slot != v1alpha1.SlotRetired && a.Key == nil && a.SealedKey == "" {
				t.Errorf("an authority in slot %s has no key", a.Slot)
			}
			if a.Key != nil {
				a.SealedKey = "sealed"
			}
		}
		written := &v1alpha1.CertificateAuthority{Spec: rolled.State(td, revoked)}
		if read, err := certs.ParseAuthorities(written, td); err != nil || slots(read) != slots(rolled) || !read.Describes(written, revoked) {
			t.Errorf("%s is written and not read as the same: %v", slots(rolled), err)
		}
		trusted, err := svid.NewBundle(td, rolled.Certificates(), revoked.Digests())
		if err != nil {
			t.Fatal(err)
		}
		if reason := p.Evaluate(request, trusted, now); reason.None() {
			if _, err := trusted.VerifyLeaf(leaf.Certificate, now); err != nil {
				t.Errorf("a leaf is kept that nobody accepts: %v", err)
			}
		}
	})
}

// FuzzEvaluate: a stored leaf of any text is kept only if a peer would take it for this workload's.
func FuzzEvaluate(f *testing.F) {
	p := policy("ECDSA-P256")
	l := roll(f, p, nil, start)
	request := certs.Request{ID: web}
	good := issue(f, p, request, l[0], start)
	other := issue(f, p, certs.Request{ID: td.ID()}, l[0], start)
	f.Add(string(svid.EncodeCertificates(good.Certificate)))
	f.Add(string(svid.EncodeCertificates(other.Certificate)))
	f.Add(string(svid.EncodeCertificates(good.Certificate, l[0].Certificate)))
	f.Add(string(svid.EncodeCertificates(l[0].Certificate)))
	f.Add("")
	trusted := bundle(f, l)
	f.Fuzz(func(t *testing.T, text string) {
		r := request
		r.Stored = &certs.Stored{LeafPEM: text, Record: certs.Record{KeyDigest: svid.KeyDigest(good.Certificate)}}
		if reason := p.Evaluate(r, trusted, start); !reason.None() {
			return
		}
		kept, err := svid.ParseCertificates([]byte(text))
		if err != nil || len(kept) != 1 || !kept[0].Equal(good.Certificate) {
			t.Errorf("something else than the leaf is kept as it: %v", err)
		}
	})
}
