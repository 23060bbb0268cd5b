package svid_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

func memo(t testing.TB, revoked []string, federation []meshmap.Federation, cas ...*testca.CA) *svid.Memo {
	t.Helper()
	set, err := svid.NewSet(bundle(t, revoked, cas...), federation)
	if err != nil {
		t.Fatal(err)
	}
	return svid.NewMemo(set)
}

// TestMemoForgetsInTime: what was accepted is not accepted before or after the validity of the leaf, and of the
// authority above it.
func TestMemoForgetsInTime(t *testing.T) {
	now := time.Now()
	ca := testca.New(t, "cluster.local")
	authority := ca.Certificate
	short := ca.Issue(t, id, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(time.Hour) }).Leaf
	long := ca.Issue(t, id, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = authority.NotBefore.Add(-time.Hour), authority.NotAfter.Add(time.Hour)
	}).Leaf
	for name, test := range map[string]struct {
		leaf *x509.Certificate
		at   time.Time
		want svid.Reason
	}{
		"last second of the leaf":      {short, short.NotAfter, ""},
		"leaf has expired":             {short, short.NotAfter.Add(time.Second), svid.Expired},
		"leaf is not valid yet":        {short, short.NotBefore.Add(-time.Second), svid.NotYetValid},
		"last second of the authority": {long, authority.NotAfter, ""},
		"authority has expired":        {long, authority.NotAfter.Add(time.Second), svid.Expired},
		// crypto/x509 has one reason for both
		"authority is not valid yet": {long, authority.NotBefore.Add(-time.Second), svid.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			m := memo(t, nil, nil, ca)
			chain := []*x509.Certificate{test.leaf}
			m.Remember(chain, x509.ExtKeyUsageServerAuth, now)
			if got, err := m.Verify(chain, x509.ExtKeyUsageServerAuth, now); err != nil || got.String() != id || m.Len() == 0 {
				t.Fatalf("the control: %s, %v, remembers %d", got, err, m.Len())
			}
			_, err := m.Verify(chain, x509.ExtKeyUsageServerAuth, test.at)
			var refused *svid.Error
			if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &refused) || refused.Reason != test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestMemoMixesNothing: an accepted chain helps no other one: not another leaf of the same name, usage, set of revoked
// keys, or certificates behind the same leaf.
func TestMemoMixesNothing(t *testing.T) {
	ca, other := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	leaf := ca.Issue(t, id).Leaf
	m := memo(t, nil, nil, ca)
	m.Remember([]*x509.Certificate{leaf}, x509.ExtKeyUsageServerAuth, time.Now())
	clientOnly := ca.Issue(t, id, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }).Leaf
	m.Remember([]*x509.Certificate{clientOnly}, x509.ExtKeyUsageClientAuth, time.Now())
	if m.Len() != 2 {
		t.Fatalf("the control: remembers %d", m.Len())
	}
	for name, test := range map[string]struct {
		memo  *svid.Memo
		chain []*x509.Certificate
		want  svid.Reason
	}{
		"another's leaf of the same name": {m, []*x509.Certificate{other.Issue(t, id).Leaf}, svid.UnknownAuthority},
		"another's leaf in front":         {m, []*x509.Certificate{other.Issue(t, id).Leaf, leaf}, svid.UnknownAuthority},
		"for the other side":              {m, []*x509.Certificate{clientOnly}, svid.WrongUsage},
		"no certificate":                  {m, nil, svid.NoCertificate},
		"revoked in the next generation":  {memo(t, []string{svid.KeyDigest(leaf)}, nil, ca), []*x509.Certificate{leaf}, svid.Revoked},
		"authority gone in the next":      {memo(t, nil, nil, other), []*x509.Certificate{leaf}, svid.UnknownAuthority},
		"authority revoked in the next":   {memo(t, []string{svid.KeyDigest(ca.Certificate)}, nil, ca, other), []*x509.Certificate{leaf}, svid.Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				// which does not make it acceptable
				test.memo.Remember(test.chain, x509.ExtKeyUsageServerAuth, time.Now())
				_, err := test.memo.Verify(test.chain, x509.ExtKeyUsageServerAuth, time.Now())
				var refused *svid.Error
				if !errors.As(err, &refused) || refused.Reason != test.want {
					t.Errorf("got %v, want %q", err, test.want)
				}
			}
		})
	}
}

// TestMemoIsBounded: more leaves than it remembers are all verified, again and again.
func TestMemoIsBounded(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	m := memo(t, nil, nil, ca)
	leaf := ca.Issue(t, id).Leaf
	for i := range svid.MaxMemo + 10 {
		behind := &x509.Certificate{Raw: fmt.Appendf(nil, "%d", i)} // makes it another chain
		if got := m.Remember([]*x509.Certificate{leaf, behind}, x509.ExtKeyUsageServerAuth, time.Now()); len(got) != 1 || got[0] != leaf {
			t.Fatalf("what was shown beside the leaf stays: %d certificates", len(got))
		}
		if n := m.Len(); n > svid.MaxMemo {
			t.Fatalf("remembers %d", n)
		}
	}
}

// TestMemoShares: two copies of an accepted chain become one, and one that is not accepted is itself.
func TestMemoShares(t *testing.T) {
	ca, other := testca.New(t, "cluster.local"), testca.New(t, "cluster.local")
	m := memo(t, nil, nil, ca)
	leaf, foreign := ca.Issue(t, id).Leaf, other.Issue(t, id).Leaf
	again, err := x509.ParseCertificate(leaf.Raw)
	if err != nil {
		t.Fatal(err)
	}
	m.Remember([]*x509.Certificate{leaf}, x509.ExtKeyUsageServerAuth, time.Now())
	if got := m.Remember([]*x509.Certificate{again}, x509.ExtKeyUsageServerAuth, time.Now()); got[0] != leaf {
		t.Error("two copies of one leaf stay two")
	}
	if got := m.Remember([]*x509.Certificate{foreign}, x509.ExtKeyUsageServerAuth, time.Now()); got[0] != foreign {
		t.Error("a chain that is not accepted was replaced")
	}
}

// TestVerifyRemembersNothing: whoever shows a chain has proved nothing yet.
func TestVerifyRemembersNothing(t *testing.T) {
	ca := testca.New(t, "cluster.local")
	m := memo(t, nil, nil, ca)
	if _, err := m.Verify([]*x509.Certificate{ca.Issue(t, id).Leaf}, x509.ExtKeyUsageServerAuth, time.Now()); err != nil || m.Len() > 0 {
		t.Errorf("remembers %d, %v", m.Len(), err)
	}
}

func BenchmarkMemo(b *testing.B) {
	ca := testca.New(b, "cluster.local")
	m := memo(b, nil, nil, ca)
	chain := []*x509.Certificate{ca.Issue(b, id).Leaf}
	m.Remember(chain, x509.ExtKeyUsageServerAuth, time.Now())
	for b.Loop() {
		if _, err := m.Verify(chain, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
