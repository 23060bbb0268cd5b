package svid

import (
	"crypto/x509"
	"sync/atomic"
	"testing"
)

// MaxMemo bounds a Memo.
const MaxMemo = maxMemo

// Len is how many chains are remembered.
func (m *Memo) Len() int { return len(m.accepted) }

// Own is the bundle of our own trust domain.
func (s *Set) Own() *Bundle { return s.own }

// CountSignatures counts the signatures that are verified until the test ends, also those that crypto/x509 verifies
// for us: each of its calls counts as one.
func CountSignatures(tb testing.TB) *atomic.Int64 {
	var n atomic.Int64
	check, verify := checkSignature, standardVerify
	checkSignature = func(c, parent *x509.Certificate) error { n.Add(1); return check(c, parent) }
	standardVerify = func(c *x509.Certificate, o x509.VerifyOptions) ([][]*x509.Certificate, error) {
		n.Add(1)
		return verify(c, o)
	}
	tb.Cleanup(func() { checkSignature, standardVerify = check, verify })
	return &n
}

// MaxPath bounds a path without its authority.
const MaxPath = maxPath
