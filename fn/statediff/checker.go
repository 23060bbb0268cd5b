package statediff

import (
	"fmt"
	"time"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/svid"
)

// Checker reports what is wrong with a state at a time. Profile is what the config says of certificates: it tells when
// the Next authority signs.
type Checker struct {
	Now     time.Time
	Profile certs.Profile
	Report  *report.Report
}

// CheckDeadlines reports what somebody has to do before minLeft is over: leaves that expire, and an Active of the
// authority that soon cannot sign whole leaves. What a late render only has to catch up with is a warning, whatever
// minLeft is.
func (c *Checker) CheckDeadlines(s, authority *State, minLeft time.Duration) {
	for _, leaf := range sorted(s.Leaves) {
		if end := leaf.Certificate.NotAfter; c.Now.Before(end) && end.Sub(c.Now) < minLeft {
			c.Report.Error(leaf.Secret, leafField, "expires at %s, which is nearer than --min-left %s; run `meshless issue` and commit the result", stamp(end), minLeft)
		}
	}
	if !authority.HasAuthority {
		return
	}
	last, next := c.Profile.LastSigning(authority.Authorities), c.Profile.SignsUntil(authority.Authorities)
	what, step := authority.Authorities.Trusted(c.Now).NextStep()
	switch {
	case minLeft > 0 && !last.IsZero() && last.Sub(c.Now) < minLeft:
		c.Report.Error(authority.Authority, authority.fieldOf(v1alpha1.SlotActive), "the Active authority signs whole certificates until %s only, which is nearer than --min-left %s; "+
			"run `meshless issue` and commit the result", stamp(last), minLeft)
	case what != "" && c.Now.After(step):
		c.Report.Warn(authority.Authority, authoritiesField, "the CA is being replaced, and a step is due since %s (%s); run `meshless issue` and commit the result", stamp(step), what)
	case what == "" && c.Now.After(next):
		c.Report.Warn(authority.Authority, authority.fieldOf(v1alpha1.SlotNext), "the Next authority should sign since %s; run `meshless issue` and commit the result", stamp(next))
	}
}

// CheckRevoked reports leaves whose key the same state revokes: an issue replaces them.
func (c *Checker) CheckRevoked(s *State) {
	for id, leaf := range sorted(s.Leaves) {
		if key := svid.KeyDigest(leaf.Certificate); s.stillRevoked(key, c.Now) {
			c.Report.Error(leaf.Secret, leafField, "the certificate of %s has the key %s, which is revoked; run `meshless issue` and commit the result", id, key)
		}
	}
}

// fieldOf is the path of the first authority in a slot.
func (s *State) fieldOf(slot v1alpha1.Slot) string {
	for i, a := range s.Authorities {
		if a.Slot == slot {
			return authorityField(i)
		}
	}
	return authoritiesField
}

func authorityField(i int) string { return fmt.Sprintf("%s[%d]", authoritiesField, i) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
