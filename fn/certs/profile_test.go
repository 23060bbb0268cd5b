package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/internal/svid"
)

// forger signs whatever a test asks for: it stands for somebody who has an authority's key, or makes an authority of
// his own.
type forger struct {
	key    *ecdsa.PrivateKey
	serial *big.Int
}

func newForger(t testing.TB, curve elliptic.Curve) *forger {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return &forger{key: key, serial: serial.SetBit(serial, 126, 1)}
}

func (f *forger) sign(t testing.TB, template, parent *x509.Certificate, public any) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, f.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// authority is one of the right profile but for the change.
func (f *forger) authority(t testing.TB, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: f.serial, Subject: pkix.Name{CommonName: "forged " + f.serial.Text(16)}, URIs: []*url.URL{td.ID().URL()},
		NotBefore: start.Add(-10 * time.Minute), NotAfter: start.Add(5760 * time.Hour), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	change(template)
	return f.sign(t, template, template, &f.key.PublicKey)
}

// leaf is one of the right profile but for the change.
func (f *forger) leaf(t testing.TB, ca *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: f.serial, URIs: []*url.URL{web.URL()}, NotBefore: start.Add(-10 * time.Minute), NotAfter: start.Add(720 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	change(template)
	return f.sign(t, template, ca, &key.PublicKey)
}

// Each invariant of an authority's certificate, broken alone, is an error that names the field; the same certificate in
// a bundle is one as well.
func TestAuthorityProfile(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		want   string // "" for a certificate that is taken
	}{
		"good":               {func(*x509.Certificate) {}, ""},
		"no URI":             {func(c *x509.Certificate) { c.URIs = nil }, "is not an authority of spiffe://cluster.local"},
		"workload as URI":    {func(c *x509.Certificate) { c.URIs = []*url.URL{web.URL()} }, "is not an authority of spiffe://cluster.local"},
		"two URIs":           {func(c *x509.Certificate) { c.URIs = append(c.URIs, web.URL()) }, "is not an authority of spiffe://cluster.local"},
		"path length one":    {func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }, "its path length is not zero"},
		"path length absent": {func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }, "its path length is not zero"},
		"may not sign":       {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, "is not a self-signed CA certificate"},
		"no CA":              {func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero, c.MaxPathLen = false, false, 0 }, "is not a self-signed CA certificate"},
		"serial one":         {func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) }, "a serial number that is not random"},
	} {
		t.Run(name, func(t *testing.T) {
			forged := newForger(t, elliptic.P256()).authority(t, test.change)
			state := &v1alpha1.CertificateAuthority{Spec: roll(t, policy("ECDSA-P256"), nil, start).State(td, nil)}
			state.Spec.Authorities[1].Certificate = string(svid.EncodeCertificates(forged))
			_, err := certs.ParseAuthorities(state, td)
			bundle := certs.CheckBundle([]*x509.Certificate{forged}, td)
			if test.want == "" {
				if err != nil || bundle != nil {
					t.Errorf("refused: %v, %v", err, bundle)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "spec.authorities[1].certificate: ") || !strings.Contains(err.Error(), "restore this object from Git") {
				t.Errorf("as an authority: %v, want %q", err, test.want)
			}
			if bundle == nil || !strings.Contains(bundle.Error(), test.want) {
				t.Errorf("in a bundle: %v, want %q", bundle, test.want)
			}
		})
	}
	odd := newForger(t, elliptic.P521()).authority(t, func(*x509.Certificate) {})
	if err := certs.CheckBundle([]*x509.Certificate{odd}, td); err == nil || !strings.Contains(err.Error(), "no config can ask for") {
		t.Errorf("a key of P-521: %v", err)
	}
	broken := slices.Clone(newForger(t, elliptic.P256()).authority(t, func(*x509.Certificate) {}).Raw)
	broken[len(broken)-1] ^= 1
	c, err := x509.ParseCertificate(broken)
	if err != nil {
		t.Fatal(err)
	}
	if err := certs.CheckBundle([]*x509.Certificate{c}, td); err == nil || !strings.Contains(err.Error(), "is not a self-signed CA certificate") {
		t.Errorf("a broken signature: %v", err)
	}
}

// Verifiers look for issuers by subject and by key identifier, so both are of one authority alone.
func TestAuthoritiesAreDistinct(t *testing.T) {
	a, b := newForger(t, elliptic.P256()), newForger(t, elliptic.P256())
	first := a.authority(t, func(*x509.Certificate) {})
	for name, second := range map[string]*x509.Certificate{
		"subject":        b.authority(t, func(c *x509.Certificate) { c.Subject = first.Subject }),
		"key identifier": b.authority(t, func(c *x509.Certificate) { c.SubjectKeyId = first.SubjectKeyId }),
		"key":            a.authority(t, func(c *x509.Certificate) { c.Subject.CommonName = "again" }),
	} {
		if err := certs.CheckBundle([]*x509.Certificate{first, second}, td); err == nil || !strings.Contains(err.Error(), "cannot tell apart") {
			t.Errorf("the same %s: %v", name, err)
		}
		state := &v1alpha1.CertificateAuthority{Spec: roll(t, policy("ECDSA-P256"), nil, start).State(td, nil)}
		state.Spec.Authorities[0].Certificate, state.Spec.Authorities[1].Certificate = string(svid.EncodeCertificates(first)), string(svid.EncodeCertificates(second))
		if _, err := certs.ParseAuthorities(state, td); err == nil || !strings.Contains(err.Error(), "cannot tell apart; restore this object from Git") {
			t.Errorf("the same %s as authorities: %v", name, err)
		}
	}
	if err := certs.CheckBundle([]*x509.Certificate{first, b.authority(t, func(*x509.Certificate) {})}, td); err != nil {
		t.Errorf("two that differ: %v", err)
	}
}

// What only the owner of an authority's key can have made wrong about a leaf is a reason to replace it.
func TestLeafProfile(t *testing.T) {
	p := policy("ECDSA-P256")
	f := newForger(t, elliptic.P256())
	ca := f.authority(t, func(*x509.Certificate) {})
	trusted, err := svid.NewBundle(td, []*x509.Certificate{ca}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		want   string
	}{
		"good":                 {func(*x509.Certificate) {}, ""},
		"outlives":             {func(c *x509.Certificate) { c.NotAfter = ca.NotAfter.Add(time.Second) }, "outlives its authority"},
		"ends with":            {func(c *x509.Certificate) { c.NotAfter = ca.NotAfter }, "the validity changed"},
		"serial":               {func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }, "a serial number that is not random"},
		"address":              {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, "names more than the workload"},
		"subject":              {func(c *x509.Certificate) { c.Subject.CommonName = "admin" }, "names more than the workload"},
		"mail":                 {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.org"} }, "names more than the workload"},
		"not yet valid":        {func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) }, "it is valid only from"},
		"another trust domain": {func(c *x509.Certificate) { c.URIs[0] = &url.URL{Scheme: "spiffe", Host: "other", Path: web.Path()} }, "is not of trust domain"},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := f.leaf(t, ca, test.change)
			request := certs.Request{ID: web}
			request.Stored = &certs.Stored{LeafPEM: string(svid.EncodeCertificates(leaf)), Record: certs.Record{KeyDigest: svid.KeyDigest(leaf)}}
			if got := p.Evaluate(request, trusted, start); got.None() != (test.want == "") || !strings.Contains(got.Text, test.want) {
				t.Errorf("got %q, want %q", got.Text, test.want)
			}
		})
	}
}

// Times that no render can have written are refused, whoever wrote them.
func TestCheckTimes(t *testing.T) {
	p := policy("ECDSA-P256")
	good := roll(t, p, nil, start)
	second := roll(t, p, good, start.Add(p.SigningPeriod))
	edit := func(l certs.Authorities, slot v1alpha1.Slot, change func(*certs.Authority)) certs.Authorities {
		out := slices.Clone(l)
		for i, a := range out {
			if a.Slot == slot {
				changed := *a
				change(&changed)
				out[i] = &changed
			}
		}
		return out
	}
	exchanged := certs.Authorities{
		{Slot: v1alpha1.SlotNext, Certificate: second.In(v1alpha1.SlotActive).Certificate},
		{Slot: v1alpha1.SlotActive, Certificate: second.In(v1alpha1.SlotNext).Certificate, ActiveSince: start.Add(p.SigningPeriod)},
	}
	later := start.Add(p.SigningPeriod)
	for name, test := range map[string]struct {
		list certs.Authorities
		now  time.Time
		want string
	}{
		"good":                {good, start, ""},
		"a slow clock":        {good, start.Add(-10 * time.Minute), ""},
		"a clock of tomorrow": {good, start.Add(-11 * time.Minute), "spec.authorities[0].certificate: is valid only from"},
		"second period":       {second, later, ""},
		"active in future":    {edit(good, v1alpha1.SlotActive, func(a *certs.Authority) { a.ActiveSince = start.Add(2 * time.Hour) }), start, "spec.authorities[0].activeSince: 2026-03-01T14:00:00Z is in the future"},
		"active before made":  {edit(good, v1alpha1.SlotActive, func(a *certs.Authority) { a.ActiveSince = start.Add(-time.Hour) }), start, "is before its certificate was made"},
		"replaced in future":  {edit(second, v1alpha1.SlotRetired, func(a *certs.Authority) { a.Replaced = later.Add(48 * time.Hour) }), later, "spec.authorities[0].replaced: "},
		"slots exchanged":     {exchanged, later, "the Next is older than the Active"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.list.CheckTimes(test.now)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// A retired authority stays trusted for as long as a leaf that it signed, whatever date stands there; one whose key is
// in wrong hands does not, and a leaf that only claims to be its own counts for nothing.
func TestExtend(t *testing.T) {
	p := policy("ECDSA-P256")
	first := roll(t, p, nil, start)
	active := first.In(v1alpha1.SlotActive)
	// on a branch that did not know of the promotion
	late := issue(t, p, certs.Request{ID: web}, active, start.Add(p.SigningPeriod+48*time.Hour)).Certificate
	l := roll(t, p, first, start.Add(p.SigningPeriod))
	retired := l.In(v1alpha1.SlotRetired)
	claims := newForger(t, elliptic.P256())
	own := claims.authority(t, func(c *x509.Certificate) {
		c.SubjectKeyId, c.Subject = retired.Certificate.SubjectKeyId, retired.Certificate.Subject
	})
	forged := claims.leaf(t, own, func(c *x509.Certificate) { c.NotAfter = retired.Certificate.NotAfter })
	leaf := issue(t, p, certs.Request{ID: web}, active, start).Certificate
	for name, test := range map[string]struct {
		leaves []*x509.Certificate
		want   time.Time
	}{
		"none":           {nil, retired.TrustedUntil},
		"in time":        {[]*x509.Certificate{leaf}, retired.TrustedUntil},
		"late":           {[]*x509.Certificate{leaf, late}, late.NotAfter.Add(24 * time.Hour)},
		"forged":         {[]*x509.Certificate{forged}, retired.TrustedUntil},
		"another's":      {[]*x509.Certificate{issue(t, p, certs.Request{ID: web}, first.In(v1alpha1.SlotNext), late.NotBefore).Certificate}, retired.TrustedUntil},
		"twice the same": {[]*x509.Certificate{late, late}, late.NotAfter.Add(24 * time.Hour)},
	} {
		if got := l.Extend(test.leaves).In(v1alpha1.SlotRetired).TrustedUntil; !got.Equal(test.want) {
			t.Errorf("%s: trusted until %s, want %s", name, got, test.want)
		}
	}
	if again := l.Extend([]*x509.Certificate{leaf}); !slices.Equal(again, l) {
		t.Error("with nothing to keep, the list changed")
	}
	replaced := slices.Clone(l)
	gone := *retired
	gone.Replaced = start
	replaced[slices.Index(l, retired)] = &gone
	if got := replaced.Extend([]*x509.Certificate{late}).In(v1alpha1.SlotRetired).TrustedUntil; !got.Equal(retired.TrustedUntil) {
		t.Error("an authority whose key is in wrong hands is kept")
	}
	if l.In(v1alpha1.SlotRetired).TrustedUntil != retired.TrustedUntil {
		t.Error("the list that was given changed")
	}
}

// An edited date does not take a revocation back while a certificate of the key is valid.
func TestExtendRevocations(t *testing.T) {
	p := policy("ECDSA-P256")
	leaf := issue(t, p, certs.Request{ID: web}, roll(t, p, nil, start)[0], start).Certificate
	right := certs.Revoke(leaf)
	edited := right
	edited.Until = metav1.NewTime(start.Add(-time.Hour))
	stranger := v1alpha1.RevokedKey{Key: strings.Repeat("0", 64), Until: metav1.NewTime(start)}
	got := certs.Revocations{edited, stranger}.Extend([]*x509.Certificate{leaf})
	if !got[0].Until.Time.Equal(right.Until.Time) || !got[1].Until.Time.Equal(start) {
		t.Errorf("until %s and %s", got[0].Until, got[1].Until)
	}
	if got := (certs.Revocations{right}).Extend([]*x509.Certificate{leaf}); got[0] != right {
		t.Error("a right entry changed")
	}
}

// A state that no config makes is refused before its certificates are read.
func TestTooManyAuthorities(t *testing.T) {
	many := make([]*x509.Certificate, v1alpha1.MaxAuthorities+1) // nil: nobody may look at them
	if err := certs.CheckBundle(many, td); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("no more than %d are read", v1alpha1.MaxAuthorities)) {
		t.Errorf("got %v", err)
	}
}
