// Command mutation changes the source of a package in every small way that it knows, one at a time: operators, numbers,
// conditions, alerts, statements left out. A change with which the package's tests still pass is a mutant that
// survives: either nothing holds what it changes, or it changes nothing. The latter are listed, with the reason, in
// equivalent.go. Anything else that survives is an error.
//
//	go run ./test/mutation                     all mutants of proxy/record
//	go run ./test/mutation -for 2m -seed 7     as many as two minutes allow, in the order of a seed
//	go run ./test/mutation -only appendAlert   those whose name has the text
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"time"
)

// recordLayer is the package whose mutants equivalent.go lists.
const recordLayer = "proxy/record"

func main() {
	o := options{Folder: recordLayer}
	flag.DurationVar(&o.For, "for", 0, "begin no mutant after so long; 0: try all")
	flag.Uint64Var(&o.Seed, "seed", 0, "order of the mutants; 0: that of the source")
	flag.StringVar(&o.Only, "only", "", "try only mutants whose name has this text")
	flag.IntVar(&o.Workers, "workers", runtime.NumCPU(), "mutants at once")
	flag.BoolVar(&o.Verbose, "v", false, "print every mutant")
	flag.Parse()
	result, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(2)
	}
	fmt.Println(result.summary())
	if len(result.Survived)+len(result.Stale) > 0 {
		os.Exit(1)
	}
}

type options struct {
	Folder  string
	For     time.Duration
	Seed    uint64
	Only    string
	Workers int
	Verbose bool
}

// choose are the mutants that are tried, in their order.
func (o options) choose(all []mutant) (chosen []mutant) {
	for _, m := range all {
		if strings.Contains(m.name, o.Only) {
			chosen = append(chosen, m)
		}
	}
	if o.Seed != 0 {
		r := rand.New(rand.NewPCG(o.Seed, 0))
		r.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	}
	return chosen
}

// result is what became of the mutants that were tried.
type result struct {
	Mutants, Tried, Invalid, Killed, Equivalent int
	Survived                                    []string // and are not listed
	Stale                                       []string // listed, and killed or gone
}

func (r *result) summary() string {
	var out strings.Builder
	for _, name := range r.Survived {
		fmt.Fprintf(&out, "survived: %s\n", name)
	}
	for _, name := range r.Stale {
		fmt.Fprintf(&out, "listed as equivalent, but killed or no mutant: %s\n", name)
	}
	fmt.Fprintf(&out, "%d of %d mutants tried: %d killed, %d equivalent, %d survived; %d others do not compile", r.Tried, r.Mutants-r.Invalid, r.Killed, r.Equivalent, len(r.Survived), r.Invalid)
	return out.String()
}
