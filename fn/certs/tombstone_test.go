package certs_test

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
)

// TestTombstoneOfNextIsReplaced: the Next that a replacement drops has a key in wrong hands, so no leaf of it may
// prolong the trust in it.
func TestTombstoneOfNextIsReplaced(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := certs.Profile{TrustDomain: spiffeid.RequireTrustDomainFromString("example.org"), Algorithm: "ECDSA-P256", Validity: 24 * time.Hour, RenewBefore: 8 * time.Hour,
		SigningPeriod: 30 * 24 * time.Hour, Shared: true}
	before, err := p.Roll(nil, time.Time{}, now)
	if err != nil {
		t.Fatal(err)
	}
	replaced, err := before.Replace(now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	next := before.In(v1alpha1.SlotNext)
	for _, a := range replaced.Tombstone(before, now.Add(time.Hour)) {
		if a.Certificate.Equal(next.Certificate) && a.Replaced.IsZero() {
			t.Error("the tombstone of Next is not marked as replaced")
		}
	}
}
