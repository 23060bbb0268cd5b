package svid_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
)

// pki makes chains in which a sequence of choices says what is wrong, and compares two verifiers of them.
type pki struct {
	keys    []*ecdsa.PrivateKey
	choices []byte
	now     time.Time
	forged  bool // a certificate of this world is not signed by the one that it names
}

func newPKI(tb testing.TB) *pki {
	tb.Helper()
	p := &pki{now: time.Now().Truncate(time.Second)}
	for range 8 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		p.keys = append(p.keys, key)
	}
	return p
}

// pick is a number below n; when there are no choices left, 0, which means that nothing is wrong.
func (p *pki) pick(n int) int {
	if len(p.choices) == 0 {
		return 0
	}
	c := int(p.choices[0]) % n
	p.choices = p.choices[1:]
	return c
}

// The keys of a PKI by their place: a key that is nobody's stands behind them.
const (
	otherKey = 6 // of an authority that has the name of another
	wrongKey = 7
)

// made is a certificate with its key, and how the one below it is to name it.
type made struct {
	c      *x509.Certificate
	key    *ecdsa.PrivateKey
	issuer x509.Certificate
}

// changes are what can be wrong, or unusual, with a certificate.
var changes = []func(p *pki, c *x509.Certificate){
	func(*pki, *x509.Certificate) {},
	func(p *pki, c *x509.Certificate) { c.NotAfter = p.now.Add(-time.Second) },
	func(p *pki, c *x509.Certificate) { c.NotBefore = p.now.Add(time.Second) },
	func(p *pki, c *x509.Certificate) { c.NotBefore, c.NotAfter = p.now, p.now },
	func(_ *pki, c *x509.Certificate) { c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, -1, false },
	func(_ *pki, c *x509.Certificate) { c.BasicConstraintsValid = false },
	func(_ *pki, c *x509.Certificate) { c.KeyUsage = 0 },
	func(_ *pki, c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature },
	func(_ *pki, c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true },
	func(_ *pki, c *x509.Certificate) { c.MaxPathLen = 1 },
	func(_ *pki, c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	func(_ *pki, c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
	func(_ *pki, c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
	func(_ *pki, c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
	func(_ *pki, c *x509.Certificate) { c.PermittedURIDomains = []string{"cluster.local"} },
	func(_ *pki, c *x509.Certificate) { c.PermittedURIDomains = []string{".cluster.local"} },
	func(_ *pki, c *x509.Certificate) { c.ExcludedURIDomains = []string{"cluster.local"} },
	func(_ *pki, c *x509.Certificate) { c.PermittedDNSDomains = []string{"svc"} },
	func(_ *pki, c *x509.Certificate) { c.ExcludedDNSDomains = []string{"web.prod.svc"} },
	func(_ *pki, c *x509.Certificate) { c.DNSNames = []string{"web.prod.svc"} },
	func(_ *pki, c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true})
	},
	func(_ *pki, c *x509.Certificate) { // policyConstraints, requireExplicitPolicy 0
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}})
	},
	func(_ *pki, c *x509.Certificate) { // inhibitAnyPolicy 0
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 54}, Critical: true, Value: []byte{2, 1, 0}})
	},
	func(_ *pki, c *x509.Certificate) { c.Policies = policies(1, 2, 3) },
	func(_ *pki, c *x509.Certificate) { c.Policies = policies(2, 5, 29, 32, 0) },
	func(_ *pki, c *x509.Certificate) { // policyMappings 1.2.3 to anyPolicy, which is not allowed
		c.Policies = policies(1, 2, 3)
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 33},
			Value: []byte{0x30, 12, 0x30, 10, 6, 2, 0x2a, 3, 6, 4, 0x55, 0x1d, 0x20, 0}})
	},
}

func policies(ints ...uint64) []x509.OID {
	oid, err := x509.OIDFromInts(ints)
	if err != nil {
		panic(err)
	}
	return []x509.OID{oid}
}

// issue makes a certificate below a parent, or a self-signed one. It is nil where the choices make none.
func (p *pki) issue(tb testing.TB, name string, key *ecdsa.PrivateKey, parent *made) *made {
	tb.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(int64(1 + len(p.choices))), Subject: pkix.Name{CommonName: name},
		NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.Add(time.Hour), BasicConstraintsValid: true, MaxPathLen: -1,
	}
	if name == "" {
		c.Subject, c.KeyUsage, c.ExtKeyUsage = pkix.Name{}, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		uri, err := url.Parse(id)
		if err != nil {
			tb.Fatal(err)
		}
		c.URIs = []*url.URL{uri}
	} else {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	}
	for range p.pick(3) {
		changes[p.pick(len(changes))](p, c)
	}
	issuer, signer := c, key
	if parent != nil {
		signer, issuer = parent.key, &parent.issuer
		switch p.pick(12) {
		case 1:
			signer, p.forged = p.keys[wrongKey], true
		case 2:
			issuer.RawSubject, issuer.Subject = nil, pkix.Name{CommonName: "nobody"}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), signer)
	if err != nil {
		return nil // basic constraints that contradict each other
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	m := &made{c: parsed, key: key, issuer: x509.Certificate{RawSubject: parsed.RawSubject, SubjectKeyId: parsed.SubjectKeyId}}
	switch p.pick(8) {
	case 1:
		m.issuer.SubjectKeyId = nil
	case 2:
		m.issuer.SubjectKeyId = []byte("another")
	}
	return m
}

// world is what one sequence of choices makes: the authorities of a bundle, what a peer presents, and whether that is
// in order.
type world struct {
	authorities, chain []*x509.Certificate
	ordered            bool
	roots              int // certificates that have the name of the root beside it
}

func (p *pki) world(tb testing.TB) *world {
	tb.Helper()
	root := p.issue(tb, "root", p.keys[0], nil)
	if root == nil {
		return nil
	}
	w, parent := &world{authorities: []*x509.Certificate{root.c}, ordered: true}, root
	for i := range p.pick(svid.MaxPath) {
		name := fmt.Sprint("intermediate ", i)
		if p.pick(10) == 1 {
			name = "root" // self-issued, or of one name
			w.roots++
		}
		m := p.issue(tb, name, p.keys[1+i], parent)
		if m == nil {
			return nil
		}
		w.chain = append([]*x509.Certificate{m.c}, w.chain...)
		parent = m
	}
	leaf := p.issue(tb, "", p.keys[5], parent)
	if leaf == nil {
		return nil
	}
	w.chain = append([]*x509.Certificate{leaf.c}, w.chain...)
	p.furnish(tb, w)
	return w
}

// furnish adds authorities to the bundle, and changes what is presented.
func (p *pki) furnish(tb testing.TB, w *world) {
	tb.Helper()
	switch p.pick(5) {
	case 1: // of the same name
		w.roots++
		if other := p.issue(tb, "root", p.keys[otherKey], nil); other != nil {
			w.authorities = append([]*x509.Certificate{other.c}, w.authorities...)
		}
	case 2: // the root again, with another validity or other constraints
		if again := p.issue(tb, "root", p.keys[0], nil); again != nil && !again.c.Equal(w.authorities[0]) {
			w.authorities = append([]*x509.Certificate{again.c}, w.authorities...)
		}
	case 3: // intermediates as authorities
		w.authorities = append(w.authorities, w.chain[1:]...)
	case 4: // in the place of the root
		if len(w.chain) > 1 {
			w.authorities = w.chain[len(w.chain)-1:]
		}
	}
	switch root := w.authorities[0]; p.pick(6) {
	case 1:
		w.chain = append(w.chain, root)
	case 2:
		w.chain = append(w.chain, w.chain...)
	case 3:
		w.ordered = false
		slices.Reverse(w.chain[1:])
	case 4:
		w.chain = w.chain[:len(w.chain)-1]
	}
}

// compare holds what we say of a world against crypto/x509.
func (p *pki) compare(t *testing.T, choices []byte) (accepted, standard bool) {
	t.Helper()
	p.choices, p.forged = choices, false
	w := p.world(t)
	if w == nil || len(w.chain) == 0 {
		return false, false
	}
	b, err := svid.NewBundle(td, w.authorities, nil)
	if err != nil {
		return false, false
	}
	usage := x509.ExtKeyUsageServerAuth
	got, err := b.Verify(w.chain, usage, p.now)
	if accepted = err == nil; accepted == got.IsZero() {
		t.Errorf("%x: identity %q with error %v", choices, got, err)
	}
	_, standardErr := p.verify(w, usage)
	standard = standardErr == nil
	leaf := w.chain[0]
	isSVID := len(leaf.URIs) == 1 && !leaf.IsCA && leaf.KeyUsage == x509.KeyUsageDigitalSignature && slices.Contains(leaf.ExtKeyUsage, usage)
	switch {
	case accepted && !standard:
		t.Errorf("%x: we accept what crypto/x509 refuses: %v", choices, standardErr)
	case accepted && !isSVID:
		t.Errorf("%x: we accept what is no X.509-SVID", choices)
	case !accepted && standard && isSVID && w.ordered && !p.forged && w.roots < 2: // of three keys with one name two are tried
		t.Errorf("%x: crypto/x509 accepts what we refuse: %v", choices, err)
	}
	return accepted, standard
}

func (p *pki) verify(w *world, usage x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, ca := range w.authorities {
		roots.AddCert(ca)
	}
	for _, c := range w.chain[1:] {
		intermediates.AddCert(c)
	}
	return w.chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: p.now, KeyUsages: []x509.ExtKeyUsage{usage}})
}

// TestAsTheStandardLibrary: of chains that are presented in order, we accept those that crypto/x509 accepts; of others
// none that it refuses.
func TestAsTheStandardLibrary(t *testing.T) {
	p := newPKI(t)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	worlds, agreed := 4000, 0
	if testing.Short() {
		worlds = 400
	}
	for range worlds {
		choices := make([]byte, 40)
		for i := range choices {
			choices[i] = byte(random.Uint32())
		}
		if accepted, standard := p.compare(t, choices); accepted && standard {
			agreed++
		}
	}
	if agreed < worlds/20 {
		t.Errorf("only %d of %d are accepted: this test compares little", agreed, worlds)
	}
	t.Logf("%d of %d are accepted", agreed, worlds)
}

// FuzzAsTheStandardLibrary is the same for choices that a fuzzer makes.
func FuzzAsTheStandardLibrary(f *testing.F) {
	p := newPKI(f)
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, 40))
	f.Fuzz(func(t *testing.T, choices []byte) { p.compare(t, choices) })
}
