package certs

import (
	"slices"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

const (
	// minPublished is how long an authority stands in the bundles before it signs, even when it is wanted sooner.
	// Between renders in time it is a whole signing period.
	minPublished = 24 * time.Hour
	// replaceWait is how long each step of a replacement waits for the one before: a day for review and merge of what a
	// render writes, and one for the nodes to apply it. The end of a signing period needs no such thought, since Next
	// has been published for a whole one.
	replaceWait = 48 * time.Hour
	// keepRetired is how long a retired authority is trusted after the last leaf that it signed has expired.
	keepRetired = 24 * time.Hour
)

// step is what Roll does.
type step string

const (
	wait    step = "wait"    // nothing is due
	publish step = "publish" // a new Next
	promote step = "promote" // Next becomes Active, the Active retires, what is replaced gets its end; and publish
	begin   step = "begin"   // a new Active, the old one retires; and publish
)

// signer is what a render finds in the slot Active.
type signer struct {
	state    string // none, signs, or due: Next is to take over
	replaced bool   // authorities are being replaced ahead of time
}

// transitions is the life of the authorities: what a render does by what it finds. The page docs/certificates.md holds
// the same table. While authorities are being replaced, nothing signs that was not published before; otherwise a mesh
// without an Active, or with one that is due and has no successor, cannot wait.
var transitions = map[signer]struct{ noNext, young, published step }{
	{"none", false}:  {begin, promote, promote},
	{"none", true}:   {publish, wait, promote},
	{"signs", false}: {publish, wait, wait},
	{"signs", true}:  {publish, wait, wait},
	{"due", false}:   {begin, wait, promote},
	{"due", true}:    {publish, wait, promote},
}

// Roll brings the authorities to what they should be at now, by the table of transitions. A Retired that nothing needs
// any more goes, and so does what has expired. Roll needs no secret. With nothing due it returns the list unchanged,
// and what it returns is not due again at the same time. LastExpiry is the latest expiry of any leaf that is known.
func (p Profile) Roll(l Authorities, lastExpiry, now time.Time) (Authorities, error) {
	out := slices.DeleteFunc(slices.Clone(l), func(a *Authority) bool {
		return now.After(a.Certificate.NotAfter) || a.Slot == v1alpha1.SlotRetired && now.After(a.TrustedUntil)
	})
	active, next := out.In(v1alpha1.SlotActive), out.In(v1alpha1.SlotNext)
	if !p.Shared && !lastExpiry.After(now) && !p.canSign(active, now) && !p.canSign(next, now) {
		// Every leaf has expired, as when renders stopped for long: nobody is left to coordinate with, so start anew
		// instead of cutting leaves short.
		out.replace(active, p.retired(active, lastExpiry, now)).replace(next, p.retired(next, lastExpiry, now))
		active, next = nil, nil
	}
	switch p.next(out, now) {
	case wait:
		return out, nil
	case begin:
		made, err := p.newAuthority(v1alpha1.SlotActive, now)
		if err != nil {
			return nil, err
		}
		made.ActiveSince = now
		out = append(out.replace(active, p.retired(active, lastExpiry, now)), made)
	case promote:
		promoted := *next
		promoted.Slot, promoted.ActiveSince = v1alpha1.SlotActive, now
		out.replace(active, p.retired(active, lastExpiry, now)).replace(next, &promoted).endReplaced(now)
	}
	made, err := p.newAuthority(v1alpha1.SlotNext, now)
	if err != nil {
		return nil, err
	}
	return append(out, made), nil
}

// next is the step of the table.
func (p Profile) next(l Authorities, now time.Time) step {
	found := signer{"none", l.Replacing()}
	if active := l.In(v1alpha1.SlotActive); active != nil {
		if found.state = "signs"; !now.Before(p.promotionDue(active)) {
			found.state = "due"
		}
	}
	row, next := transitions[found], l.In(v1alpha1.SlotNext)
	switch {
	case next == nil:
		return row.noNext
	case now.Before(l.publishedEnough(next)):
		return row.young
	}
	return row.published
}

// replace puts one authority in the place of another; nil is nowhere.
func (l Authorities) replace(old, with *Authority) Authorities {
	if old != nil {
		l[slices.Index(l, old)] = with
	}
	return l
}

// publishedEnough is from when Next may sign.
func (l Authorities) publishedEnough(next *Authority) time.Time {
	if l.Replacing() {
		return next.Created().Add(replaceWait)
	}
	return next.Created().Add(minPublished)
}

// Created is when the authority was made, which is when it was first published.
func (a *Authority) Created() time.Time { return a.Certificate.NotBefore.Add(backdate) }

// promotionDue is when Next takes over: after a signing period, or before a leaf would have to be cut short by the end
// of its authority.
func (p Profile) promotionDue(active *Authority) time.Time {
	if !active.Replaced.IsZero() {
		return active.Replaced
	}
	due := active.ActiveSince.Add(p.SigningPeriod)
	if last := p.lastSigning(active); last.Before(due) {
		return last
	}
	return due
}

// lastSigning is until when an authority can sign leaves of the validity that it was made for. A validity that was
// raised since does not hurry it: its leaves are cut short, and the next authority is made for the new one. The eighth
// is what is left to a leaf under the default periods; it serves where the signing period was raised since.
func (p Profile) lastSigning(a *Authority) time.Time {
	return a.Certificate.NotAfter.Add(-min(p.Validity, p.madeFor(a)))
}

// madeFor is the validity of leaves for which an authority was made.
func (p Profile) madeFor(a *Authority) time.Duration {
	life := a.Certificate.NotAfter.Sub(a.Created())
	if leaf := (life - 2*p.SigningPeriod) / 2; leaf > 0 {
		return leaf
	}
	return life / 8
}

// canSign tells whether a leaf made now would live its whole validity.
func (p Profile) canSign(a *Authority, now time.Time) bool {
	return a != nil && !a.Certificate.NotAfter.Before(now.Add(p.Validity))
}

// retired is what becomes of an Active: its key goes, its certificate stays for the leaves that are out.
func (p Profile) retired(active *Authority, lastExpiry, now time.Time) *Authority {
	if active == nil {
		return nil
	}
	// a validity that was lowered since leaves longer leaves on nodes that are late
	until := now.Add(max(p.Validity, p.madeFor(active)))
	if lastExpiry.After(until) {
		until = lastExpiry
	}
	if p.Shared || until.After(active.Certificate.NotAfter) {
		// no leaf outlives its authority, whatever validity another package asks for
		until = active.Certificate.NotAfter
	}
	return &Authority{Slot: v1alpha1.SlotRetired, Certificate: active.Certificate, ActiveSince: active.ActiveSince, TrustedUntil: until.Add(keepRetired),
		Replaced: active.Replaced}
}
