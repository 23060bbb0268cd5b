package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// seed of the package's random tests: the same mutants die in each run
	testSeed = "-seed=1"
	// a mutant that loops is killed by this; the tests take a second
	testTimeout = 40 * time.Second
)

// root is the folder of the module.
func root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

// variable names the mutant that is in force in the program with all of them.
const variable = "MESHLESS_MUTANT"

// run tries mutants.
func run(o options) (*result, error) {
	module, err := root()
	if err != nil {
		return nil, err
	}
	l := &laboratory{options: o, module: module, began: time.Now()}
	if l.dir, err = os.MkdirTemp("", "meshless-mutation-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(l.dir)
	if l.source, err = load(module, o.Folder); err != nil {
		return nil, err
	}
	all := mutants(l.source)
	l.result = &result{Mutants: len(all)}
	valid := slices.DeleteFunc(slices.Clone(all), func(m mutant) bool { return !l.source.compiles(m) })
	l.result.Invalid = len(all) - len(valid)
	if err := l.buildSwitched(valid); err != nil {
		return nil, err
	}
	if outcome, detail := l.test(l.switched, 0); outcome != survived {
		return nil, fmt.Errorf("the package's tests fail as it is, so nothing can be told of mutants:\n%s", detail)
	}
	l.all(o.choose(valid))
	if o.Folder == recordLayer {
		l.findStale(valid)
	}
	return l.result, l.err
}

// laboratory tries mutants, some at once.
type laboratory struct {
	options
	module, dir string
	source      *checker
	switched    string // the program with all mutants
	began       time.Time

	mu     sync.Mutex
	result *result
	err    error
}

// buildSwitched builds the program with all mutants that can be in one.
func (l *laboratory) buildSwitched(all []mutant) error {
	replaced := map[string][]byte{filepath.Join(l.module, l.Folder, "zz_mutant.go"): fmt.Appendf(nil, switchFile, l.source.pkg.Name(), variable)}
	for path, text := range l.source.texts {
		replaced[path] = switched(text, slices.DeleteFunc(slices.Clone(all), func(m mutant) bool { return m.file != path || m.kind == alone }))
	}
	l.switched = filepath.Join(l.dir, "switched.test")
	if out, err := l.build(l.switched, replaced); err != nil {
		return fmt.Errorf("the program with all mutants: %w\n%s", err, out)
	}
	return nil
}

func (l *laboratory) all(chosen []mutant) {
	work := make(chan mutant)
	var workers sync.WaitGroup
	for range max(1, l.Workers) {
		workers.Go(func() {
			for m := range work {
				l.note(m)
			}
		})
	}
	for _, m := range chosen {
		if l.For > 0 && time.Since(l.began) > l.For {
			break
		}
		work <- m
	}
	close(work)
	workers.Wait()
}

// note tries a mutant and counts it.
func (l *laboratory) note(m mutant) {
	outcome, detail := l.try(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.result
	r.Tried++
	_, listed := equivalent[m.name]
	switch {
	case outcome == failed:
		l.err = errors.Join(l.err, fmt.Errorf("%s: %s", m.name, detail))
	case outcome == killed && listed:
		r.Stale = append(r.Stale, m.name)
	case outcome == killed:
		r.Killed++
	case listed:
		r.Equivalent++
	default:
		r.Survived = append(r.Survived, m.name)
	}
	if l.Verbose {
		line := 1 + bytes.Count(l.source.texts[m.file][:m.from], []byte("\n"))
		fmt.Printf("%-8s %s (line %d)\n", outcome, m.name, line)
	}
}

// findStale finds what is listed and is no mutant any more.
func (l *laboratory) findStale(valid []mutant) {
	names := map[string]bool{}
	for _, m := range valid {
		names[m.name] = true
	}
	for name := range equivalent {
		if !names[name] {
			l.result.Stale = append(l.result.Stale, name)
		}
	}
}

type outcome string

const (
	killed   outcome = "killed"
	survived outcome = "survived"
	failed   outcome = "failed" // nothing can be told
)

// try runs the tests of the package with one mutant.
func (l *laboratory) try(m mutant) (outcome, string) {
	if m.kind != alone {
		return l.test(l.switched, m.number)
	}
	binary := filepath.Join(l.dir, fmt.Sprintf("%d.test", m.number))
	defer os.Remove(binary)
	if out, err := l.build(binary, map[string][]byte{m.file: m.source(l.source.texts[m.file])}); err != nil {
		if strings.Contains(out, "not used") {
			return killed, "" // what is left out was used for nothing else
		}
		return failed, out
	}
	return l.test(binary, 0)
}

func (l *laboratory) test(binary string, number int) (outcome, string) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	// In CI other packages are tested meanwhile, and some have bounds on time.
	test := exec.CommandContext(ctx, "nice", "-n", "19", binary, "-test.short", "-test.failfast", testSeed)
	test.Dir = filepath.Join(l.module, l.Folder)
	test.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, number))
	out, err := test.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return survived, ""
	case ctx.Err() != nil || errors.As(err, &exit):
		return killed, string(bytes.TrimSpace(out))
	}
	return failed, err.Error()
}

// build builds the package's tests with some files replaced.
func (l *laboratory) build(binary string, replaced map[string][]byte) (string, error) {
	overlay := map[string]map[string]string{"Replace": {}}
	for path, text := range replaced {
		mutated := binary + "." + filepath.Base(path)
		if err := os.WriteFile(mutated, text, 0o600); err != nil {
			return "", err
		}
		overlay["Replace"][path] = mutated
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(binary+".json", text, 0o600); err != nil {
		return "", err
	}
	build := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary, "-overlay", binary+".json", "./"+l.Folder)
	build.Dir = l.module
	out, err := build.CombinedOutput()
	return string(out), err
}
