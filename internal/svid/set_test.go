package svid_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

const (
	otherID = "spiffe://other.example/ns/prod/deployment/web"
	thirdID = "spiffe://third.example/ns/prod/deployment/web"
)

func federate(td string, cas ...*testca.CA) meshmap.Federation {
	f := meshmap.Federation{TrustDomain: td}
	for _, ca := range cas {
		f.Bundle += string(ca.PEM())
	}
	return f
}

// Every way in which an authority of one trust domain could name somebody of another fails; each names its own.
func TestSetNeverMixes(t *testing.T) {
	ours, other, third := testca.New(t, "cluster.local"), testca.New(t, "other.example"), testca.New(t, "third.example")
	revokedLeaf := other.Issue(t, otherID)
	own := bundle(t, []string{svid.KeyDigest(revokedLeaf.Leaf)}, ours)
	s, err := svid.NewSet(own, []meshmap.Federation{federate("other.example", other)})
	if err != nil {
		t.Fatal(err)
	}
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	also := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(s)) }
	}
	below := func(ca *testca.CA, name, leaf string) []*x509.Certificate {
		middle := ca.Issue(t, name, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign; c.ExtKeyUsage = nil })
		return []*x509.Certificate{testca.Below(t, middle).Issue(t, leaf).Leaf, middle.Leaf}
	}
	one := func(c tls.Certificate) []*x509.Certificate { return []*x509.Certificate{c.Leaf} }
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  svid.Reason
	}{
		"ours":                                {one(ours.Issue(t, id)), ""},
		"theirs":                              {one(other.Issue(t, otherID)), ""},
		"their authority names one of ours":   {one(other.Issue(t, id)), svid.UnknownAuthority},
		"our authority names one of theirs":   {one(ours.Issue(t, otherID)), svid.UnknownAuthority},
		"a third trust domain":                {one(third.Issue(t, thirdID)), svid.WrongTrustDomain},
		"a third one signed by theirs":        {one(other.Issue(t, thirdID)), svid.WrongTrustDomain},
		"the third authority names theirs":    {one(third.Issue(t, otherID)), svid.UnknownAuthority},
		"both names, theirs first":            {one(other.Issue(t, otherID, also(id))), svid.NotAnSVID},
		"both names, ours first":              {one(other.Issue(t, id, also(otherID))), svid.NotAnSVID},
		"both names, signed by ours":          {one(ours.Issue(t, id, also(otherID))), svid.NotAnSVID},
		"our authority sent along":            {append(one(other.Issue(t, id)), ours.Certificate), svid.UnknownAuthority},
		"their authority sent along":          {append(one(other.Issue(t, id)), other.Certificate), svid.UnknownAuthority},
		"intermediate of theirs names ours":   {below(other, "spiffe://cluster.local", id), svid.UnknownAuthority},
		"their trust domain itself":           {one(other.Issue(t, "spiffe://other.example")), svid.NotAnSVID},
		"a subdomain of theirs":               {one(other.Issue(t, "spiffe://x.other.example/web")), svid.WrongTrustDomain},
		"a key of theirs that is revoked":     {one(revokedLeaf), svid.Revoked},
		"their authority as leaf":             {[]*x509.Certificate{other.Certificate}, svid.NotAnSVID},
		"nothing":                             {nil, svid.NoCertificate},
		"theirs, expired":                     {one(other.Issue(t, otherID, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), svid.Expired},
		"theirs, for servers":                 {one(other.Issue(t, otherID, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })), svid.WrongUsage},
		"upper case, as no SPIFFE ID is said": {one(other.Issue(t, "spiffe://OTHER.example/web")), svid.NotAnSVID},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.Verify(c.chain, x509.ExtKeyUsageClientAuth, time.Now())
			refused := new(svid.Error)
			switch {
			case c.want == "" && (err != nil || got.String() != c.chain[0].URIs[0].String()):
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.As(err, &refused) || refused.Reason != c.want || !got.IsZero()):
				t.Errorf("got %s and %v, want reason %s", got, err, c.want)
			}
		})
	}
}

// A revoked authority of another trust domain is not trusted, whoever listed it.
func TestSetRevokesAuthorities(t *testing.T) {
	ours, other := testca.New(t, "cluster.local"), testca.New(t, "other.example")
	s, err := svid.NewSet(bundle(t, []string{svid.KeyDigest(other.Certificate)}, ours), []meshmap.Federation{federate("other.example", other)})
	if err != nil {
		t.Fatal(err)
	}
	refused := new(svid.Error)
	if got, err := s.Verify([]*x509.Certificate{other.Issue(t, otherID).Leaf}, x509.ExtKeyUsageClientAuth, time.Now()); !errors.As(err, &refused) || refused.Reason != svid.Revoked {
		t.Errorf("got %s and %v", got, err)
	}
}

// An authority below one of theirs that names another trust domain signs nothing, even where the path may be so long.
func TestIntermediateOfAnotherDomain(t *testing.T) {
	root := testca.New(t, "other.example")
	long := testca.Below(t, root.Issue(t, "spiffe://other.example", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil // its path length is not limited
	}))
	td := spiffeid.RequireTrustDomainFromString("other.example")
	b, err := svid.NewBundle(td, []*x509.Certificate{long.Certificate}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"spiffe://other.example": true, "spiffe://cluster.local": false} {
		middle := long.Issue(t, name, func(c *x509.Certificate) { c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil })
		chain := []*x509.Certificate{testca.Below(t, middle).Issue(t, otherID).Leaf, middle.Leaf}
		if got, err := b.Verify(chain, x509.ExtKeyUsageClientAuth, time.Now()); (err == nil) != want {
			t.Errorf("below %s: %s, %v", name, got, err)
		}
	}
}

func TestNewSetRefuses(t *testing.T) {
	ours, other, third := testca.New(t, "cluster.local"), testca.New(t, "other.example"), testca.New(t, "third.example")
	nameless := testca.New(t, "cluster.local", func(c *x509.Certificate) { c.URIs = nil })
	leaf := other.Issue(t, otherID)
	text := func(f meshmap.Federation, more ...string) meshmap.Federation {
		f.Bundle += strings.Join(more, "")
		return f
	}
	for name, c := range map[string]struct {
		own        *testca.CA
		federation []meshmap.Federation
		want       string
	}{
		"good":                               {ours, []meshmap.Federation{federate("other.example", other), federate("third.example", third)}, ""},
		"an authority without a name":        {ours, []meshmap.Federation{federate("other.example", nameless)}, ""},
		"our own trust domain":               {ours, []meshmap.Federation{federate("cluster.local", testca.New(t, "cluster.local"))}, "has a bundle already"},
		"a trust domain twice":               {ours, []meshmap.Federation{federate("other.example", other), federate("other.example", testca.New(t, "other.example"))}, "has a bundle already"},
		"an authority that names another":    {ours, []meshmap.Federation{federate("other.example", third)}, "which names spiffe://third.example"},
		"an authority that names ours":       {ours, []meshmap.Federation{federate("other.example", ours)}, "which names spiffe://cluster.local"},
		"an authority in two trust domains":  {ours, []meshmap.Federation{federate("other.example", nameless), federate("third.example", nameless)}, "must not be mixed"},
		"our authority, which has no name":   {nameless, []meshmap.Federation{federate("other.example", nameless)}, "must not be mixed"},
		"the same key in another's clothing": {nameless, []meshmap.Federation{federate("other.example", nameless.Again(t))}, "must not be mixed"},
		"a certificate twice":                {ours, []meshmap.Federation{federate("other.example", other, other)}, "twice"},
		"nothing":                            {ours, []meshmap.Federation{federate("other.example")}, "holds no certificate"},
		"a leaf":                             {ours, []meshmap.Federation{text(federate("other.example", other), string(svid.EncodeCertificates(leaf.Leaf)))}, "not a CA"},
		"a key":                              {ours, []meshmap.Federation{text(federate("other.example", other), string(testca.KeyPEM(t, leaf)))}, "not a certificate"},
		"no trust domain":                    {ours, []meshmap.Federation{federate("Other!", other)}, "trust domain"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := svid.NewSet(bundle(t, nil, c.own), c.federation)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if err == nil && (len(s.Foreign()) != len(c.federation) || s.Own().TrustDomain() != td) {
				t.Errorf("got %d foreign bundles beside that of %s", len(s.Foreign()), s.Own().TrustDomain())
			}
		})
	}
}

func TestUntil(t *testing.T) {
	first, last := testca.New(t, "cluster.local"), testca.New(t, "cluster.local", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) })
	for _, cas := range [][]*testca.CA{{first, last}, {last, first}} {
		if got := bundle(t, nil, cas...).Until(); !got.Equal(last.Certificate.NotAfter) {
			t.Errorf("until %s, want %s", got, last.Certificate.NotAfter)
		}
	}
	if !slices.Equal(bundle(t, nil, first).Authorities(), []*x509.Certificate{first.Certificate}) {
		t.Error("another authority")
	}
}
