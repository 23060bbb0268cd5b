package identity

import (
	"fmt"
	"slices"
	"testing"
)

// TestRevokedIsBounded: the list in use counts whole, whatever its length; of those that are gone the newest are kept.
func TestRevokedIsBounded(t *testing.T) {
	var r revoked
	keys := func(from, to int) (list []string) {
		for i := from; i < to; i++ {
			list = append(list, fmt.Sprintf("%064x", i))
		}
		return list
	}
	many := keys(0, maxRevoked+5000)
	if got := r.with(many); !slices.Equal(got, many) {
		t.Errorf("%d keys in force, want %d", len(got), len(many))
	}
	if missing := r.keep(many); missing != 0 {
		t.Errorf("%d of the first list are missing", missing)
	}
	if got := r.with(nil); len(got) != len(many) {
		t.Errorf("%d keys in force after a revert, want %d", len(got), len(many))
	}
	if missing := r.keep(nil); missing != len(many) || len(r.gone) != maxRevoked {
		t.Errorf("%d missing, %d kept", missing, len(r.gone))
	}
	if got := r.with(keys(7, 8)); len(got) != maxRevoked+1 || slices.Contains(got[1:], got[0]) {
		t.Errorf("%d keys in force with one listed again", len(got))
	}
	if last := many[len(many)-1]; !slices.Contains(r.gone, last) || slices.Contains(r.gone, many[0]) {
		t.Error("the longest gone are kept, not the last")
	}
	if missing := r.keep(keys(14999, 15000)); missing != 0 || len(r.gone) != maxRevoked-1 {
		t.Errorf("listed again: %d missing, %d gone", missing, len(r.gone))
	}
	if missing := r.keep(nil); missing != 1 || len(r.gone) != maxRevoked {
		t.Errorf("reverted again: %d missing, %d gone", missing, len(r.gone))
	}
}
