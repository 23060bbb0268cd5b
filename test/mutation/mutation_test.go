package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMutants: no change of the record layer's source passes its tests, but for those of equivalent.go. It
// tries as many as one minute allows; make mutation, which CI runs, tries all.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	o := options{Folder: recordLayer, For: time.Minute, Seed: uint64(time.Now().UnixNano()), Workers: 2}
	r, err := run(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %s", o.Seed, r.summary())
	if len(r.Survived)+len(r.Stale) > 0 || r.Killed == 0 {
		t.Error("something of proxy/record is held by no test, or equivalent.go lists what is no equivalent: go run ./test/mutation")
	}
	if r.Mutants < 400 {
		t.Errorf("%d mutants are all: the program has become blind", r.Mutants)
	}
}

// TestSurvivorsAreFound: the control. Of two functions a test holds one.
func TestSurvivorsAreFound(t *testing.T) {
	r, err := run(options{Folder: "test/mutation/testdata/weak", Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"weak.go Check: errors.New(\"too many\") => nil", "weak.go Check: n > 7 => (n > 7) && false", "weak.go Check: n > 7 => (n > 7) || true",
		"weak.go Check: n > 7 => n >= 7", "weak.go Check: n > 7 => n <= 7", "weak.go Check: 7 => 8", "weak.go Check: 7 => 6",
		"weak.go Min: a < b => a <= b", // an equivalent one
	}
	slices.Sort(want)
	slices.Sort(r.Survived)
	if !slices.Equal(r.Survived, want) || r.Killed < 3 {
		t.Errorf("%d were killed, and survived have\n%s\nwant\n%s", r.Killed, strings.Join(r.Survived, "\n"), strings.Join(want, "\n"))
	}
}
