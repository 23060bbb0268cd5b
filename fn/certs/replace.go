package certs

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

// Replace begins to replace all authorities ahead of time, since their keys are in wrong hands: whoever could open one
// of them could open all. The Next goes at once, as nothing depends on it. The others are trusted until Roll has
// published a successor for two days, made it Active, and given every node another two for the leaves of the successor.
// Leaves that are due in between are still signed by the Active.
func (l Authorities) Replace(now time.Time) (Authorities, error) {
	if l.Replacing() {
		what, at := l.NextStep()
		return nil, fmt.Errorf("the authorities are being replaced already, since %s: run `meshless issue` after %s, when %s", stampText(l.replacedSince()), stampText(at), what)
	}
	var out Authorities
	for _, a := range l {
		if a.Slot == v1alpha1.SlotNext {
			continue
		}
		replaced := *a
		replaced.Replaced = now
		out = append(out, &replaced)
	}
	return out, nil
}

// Recover is what is left of authorities whose state object is lost: the certificates that the bundles trust, whose
// keys nobody has. They are replaced as Replace does it, except that nothing can be signed until the successor is
// Active.
func Recover(bundle []*x509.Certificate, now time.Time) Authorities {
	var out Authorities
	for _, c := range bundle {
		out = append(out, &Authority{Slot: v1alpha1.SlotRetired, Certificate: c, TrustedUntil: c.NotAfter.Add(keepRetired), Replaced: now})
	}
	return out
}

// Replacing tells whether authorities are being replaced whose successor does not sign yet.
func (l Authorities) Replacing() bool {
	active := l.In(v1alpha1.SlotActive)
	return !l.replacedSince().IsZero() && (active == nil || !active.Replaced.IsZero())
}

func (l Authorities) replacedSince() time.Time {
	if i := slices.IndexFunc(l, func(a *Authority) bool { return !a.Replaced.IsZero() }); i >= 0 {
		return l[i].Replaced
	}
	return time.Time{}
}

// Replaced are the certificates whose leaves are to be issued anew now, since their successor signs.
func (l Authorities) Replaced() []*x509.Certificate {
	if l.Replacing() {
		return nil
	}
	var out []*x509.Certificate
	for _, a := range l {
		if !a.Replaced.IsZero() {
			out = append(out, a.Certificate)
		}
	}
	return out
}

// endReplaced sets the end of those that are replaced, when their successor has become Active: the leaves of the
// successor are made in the same render, and replaceWait is what it takes to merge and apply them.
func (l Authorities) endReplaced(now time.Time) {
	for i, a := range l {
		if until := now.Add(replaceWait); !a.Replaced.IsZero() && a.TrustedUntil.After(until) {
			ending := *a
			ending.TrustedUntil = until
			l[i] = &ending
		}
	}
}

// NextStep says what the authorities wait for while they are replaced, and from when a render does it; the text is
// empty when there is nothing to say.
func (l Authorities) NextStep() (what string, at time.Time) {
	if l.replacedSince().IsZero() {
		return "", time.Time{}
	}
	if next := l.In(v1alpha1.SlotNext); l.Replacing() && next != nil {
		return "the new authority signs, and every leaf is issued anew", l.publishedEnough(next)
	}
	for _, a := range l {
		if !a.Replaced.IsZero() && a.TrustedUntil.After(at) {
			at = a.TrustedUntil
		}
	}
	return "the old authorities are dropped", at
}
