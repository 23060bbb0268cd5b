package certs

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

var (
	rollNow     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rollProfile = Profile{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), Algorithm: "Ed25519", Validity: 720 * time.Hour, RenewBefore: 360 * time.Hour, SigningPeriod: 2160 * time.Hour}
)

// made is an authority of some age.
func made(t *testing.T, slot v1alpha1.Slot, age time.Duration) *Authority {
	t.Helper()
	a, err := rollProfile.newAuthority(slot, rollNow.Add(-age))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// situation makes authorities that fit a row of the table and an age of Next; zero is no Next.
func situation(t *testing.T, row signer, next time.Duration) Authorities {
	t.Helper()
	old := made(t, v1alpha1.SlotRetired, 4000*time.Hour)
	old.TrustedUntil = rollNow.Add(500 * time.Hour)
	l := Authorities{old}
	active := made(t, v1alpha1.SlotActive, 2200*time.Hour)
	switch active.ActiveSince = rollNow.Add(-time.Hour); row.state {
	case "none":
		active = old
	case "due":
		active.ActiveSince = rollNow.Add(-rollProfile.SigningPeriod)
	}
	if row.state != "none" {
		l = append(l, active)
	}
	if row.replaced {
		active.Replaced = rollNow.Add(-time.Minute)
	}
	if row.replaced && row.state == "signs" { // as the clock of another machine may say
		active.Replaced = rollNow.Add(time.Minute)
	}
	if next != 0 {
		l = append(l, made(t, v1alpha1.SlotNext, next))
	}
	return l
}

// TestTransitions takes every step of the table, of authorities of one package and of several.
func TestTransitions(t *testing.T) {
	for row, steps := range transitions {
		for next, want := range map[time.Duration]step{0: steps.noNext, time.Hour: steps.young, 100 * time.Hour: steps.published} {
			for _, shared := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, replaced %t, Next %s, shared %t", row.state, row.replaced, next, shared), func(t *testing.T) {
					p := rollProfile
					p.Shared = shared
					checkStep(t, p, situation(t, row, next), want)
				})
			}
		}
	}
}

func checkStep(t *testing.T, p Profile, before Authorities, want step) {
	t.Helper()
	replacing := before.Replacing()
	after, err := p.Roll(before, rollNow.Add(time.Hour), rollNow)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.Roll(after, rollNow.Add(time.Hour), rollNow); err != nil || !slices.Equal(again, after) {
		t.Errorf("is due again at once (%v)", err)
	}
	known := func(a *Authority) bool {
		return a != nil && slices.ContainsFunc(before.Certificates(), a.Certificate.Equal)
	}
	active, next := after.In(v1alpha1.SlotActive), after.In(v1alpha1.SlotNext)
	if next == nil || after.count(v1alpha1.SlotNext) != 1 || after.count(v1alpha1.SlotActive) > 1 {
		t.Fatalf("there are %d Active and %d Next", after.count(v1alpha1.SlotActive), after.count(v1alpha1.SlotNext))
	}
	got := wait
	switch {
	case active != nil && !known(active):
		got = begin
	case active != nil && active != before.In(v1alpha1.SlotActive):
		got = promote
	case !known(next):
		got = publish
	}
	if got != want || got == wait && !slices.Equal(before, after) || got == promote && (!active.Certificate.Equal(before.In(v1alpha1.SlotNext).Certificate) || known(next)) {
		t.Errorf("the step is %s, want %s", got, want)
	}
	for _, a := range before {
		i := slices.IndexFunc(after.Certificates(), a.Certificate.Equal)
		if i < 0 {
			t.Fatal("an authority is trusted no more")
		}
		checkRetired(t, p, a, after[i], replacing && got == promote)
	}
}

// checkRetired checks what became of one authority.
func checkRetired(t *testing.T, p Profile, before, after *Authority, ended bool) {
	t.Helper()
	switch {
	case ended && !after.Replaced.IsZero() && after.TrustedUntil.After(rollNow.Add(replaceWait)):
		t.Errorf("one that is replaced is trusted until %s", after.TrustedUntil)
	case before.Slot != v1alpha1.SlotActive || after.Slot != v1alpha1.SlotRetired:
	case after.Key != nil || after.SealedKey != "":
		t.Error("a Retired keeps its key")
	case !ended && p.Shared && !after.TrustedUntil.Equal(before.Certificate.NotAfter.Add(keepRetired)):
		t.Errorf("a Retired that packages share is trusted until %s", after.TrustedUntil)
	case !ended && !p.Shared && !after.TrustedUntil.Equal(rollNow.Add(p.Validity+keepRetired)):
		t.Errorf("a Retired is trusted until %s", after.TrustedUntil)
	}
}

// TestTransitionsAreDocumented: docs/certificates.md holds the table.
func TestTransitionsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/certificates.md")
	if err != nil {
		t.Fatal(err)
	}
	for row, steps := range transitions {
		replaced := map[bool]string{false: "no", true: "yes"}[row.replaced]
		if line := fmt.Sprintf("| %s | %s | %s | %s | %s |", row.state, replaced, steps.noNext, steps.young, steps.published); !strings.Contains(string(page), line) {
			t.Errorf("docs/certificates.md lacks %q", line)
		}
	}
}
