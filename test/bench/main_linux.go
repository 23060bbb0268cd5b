package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	tree, out, docs, profiles, from string
	quick, keep, symbols            bool
	only, measures                  []string
	reps                            int
	duration, warmup, settle        time.Duration
	idle                            []int
}

func main() {
	enterWorker()
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, usage io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(usage)
	list := func(into *[]string) func(string) error {
		return func(s string) error { *into = strings.Split(s, ","); return nil }
	}
	fs.StringVar(&o.tree, "tree", ".", "repository whose proxy is measured; it is built from there")
	fs.StringVar(&o.out, "o", "", "write every figure to this JSON `file`")
	fs.StringVar(&o.from, "from", "", "measure nothing, report what this JSON `file` of -o holds")
	fs.StringVar(&o.docs, "docs", "", "put tables and plots into performance.md and img/ of this `folder`")
	fs.StringVar(&o.profiles, "profiles", "", "put CPU profiles of our proxy, explicit form, into this `folder`: go tool pprof -top FILE")
	fs.BoolVar(&o.quick, "quick", false, "about a minute: one short repetition, without the variants of peers; noisy")
	fs.BoolVar(&o.keep, "keep", false, "keep configurations and logs in the temporary folder")
	fs.BoolVar(&o.symbols, "symbols", false, "build our proxy with symbols, for perf")
	fs.Func("only", "peers, like ours,nginx; a * at the end stands for anything", list(&o.only))
	fs.Func("measure", "measures, like bulk*,rate", list(&o.measures))
	fs.IntVar(&o.reps, "reps", 5, "repetitions, of all peers in turn")
	fs.DurationVar(&o.duration, "duration", 3*time.Second, "measured time of each load")
	fs.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "time before that")
	fs.DurationVar(&o.settle, "settle", 3*time.Second, "how long nothing happens before memory is read")
	o.idle = []int{1000, 10000}
	fs.Func("idle", "numbers of idle connections (default 1000,10000)", func(s string) error { o.idle, err = integers(s); return err })
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 || o.reps < 1 || o.duration <= 0 {
		return o, fmt.Errorf("-reps and -duration are more than zero, and nothing follows the flags: %q", fs.Args())
	}
	if o.quick {
		o.shorten(fs)
	}
	return o, errors.Join(known("-only", o.only, peerNames()), known("-measure", o.measures, measureNames()))
}

// known is an error if a pattern of the flag means none of the names.
func known(flag string, patterns, names []string) error {
	for _, pattern := range patterns {
		if !slices.ContainsFunc(names, func(name string) bool { return chosen([]string{pattern}, name) }) {
			return fmt.Errorf("%s: %q is none of %s", flag, pattern, strings.Join(names, ", "))
		}
	}
	return nil
}

// shorten sets what -quick says, but for what the command line says.
func (o *options) shorten(fs *flag.FlagSet) {
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if !set["reps"] {
		o.reps = 1
	}
	if !set["duration"] {
		o.duration = 300 * time.Millisecond
	}
	if !set["warmup"] {
		o.warmup = 100 * time.Millisecond
	}
	if !set["settle"] {
		o.settle = 300 * time.Millisecond
	}
	if !set["idle"] {
		o.idle = []int{1000}
	}
}

func integers(s string) (list []int, err error) {
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a number of connections", part)
		}
		list = append(list, n)
	}
	return list, nil
}

// chosen tells whether a list of names, possibly with a * at the end, has the name; an empty one has every name.
func chosen(list []string, name string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return name == pattern || open && strings.HasPrefix(name, prefix)
	})
}

func run(args []string, out io.Writer) error {
	o, err := parse(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	var rep *report
	if o.from != "" {
		rep, err = readReport(o.from)
	} else {
		rep, err = measureAll(o)
	}
	if err != nil {
		return err
	}
	fmt.Fprint(out, rep.markdown())
	if o.out != "" {
		err = rep.write(o.out)
	}
	if o.docs != "" {
		err = errors.Join(err, rep.document(o.docs))
	}
	return err
}

// newBench takes what a run needs of the machine; close gives it back.
func newBench(o options) (b *bench, err error) {
	b = &bench{options: o, authority: newAuthority(), lastPort: uint16(firstPort + rand.IntN(endPort-firstPort))} // another run may be at work
	if b.dir, err = os.MkdirTemp("", "meshless-bench-"); err != nil {
		return nil, err
	}
	// Our proxy runs as another user in pods, and reads its files there.
	if err = os.Chmod(b.dir, 0o755); err == nil {
		b.connections, err = raiseFiles()
	}
	if err == nil {
		b.host, err = newPlace(false)
	}
	if err == nil && o.profiles != "" {
		err = os.MkdirAll(o.profiles, 0o755)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	return b, nil
}

func (b *bench) close() {
	b.host.close()
	if b.keep {
		say("configurations and logs are in %s", b.dir)
		return
	}
	_ = os.RemoveAll(b.dir)
}

// raiseFiles raises the limit of open files as far as this process may, and returns how many connections that allows a
// proxy, which has two files for each.
func raiseFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Max = min(limit.Max, 1<<20)
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil { // after it, children inherit the new limit
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return min(10000, (int(limit.Max)-1000)/2), nil // HAProxy counts many more for itself, and refuses to start without
}

// say tells the one who waits.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// measureAll runs every chosen measure of every chosen peer that is there: repetition by repetition, and within each
// measure one peer after the other, so that what disturbs the machine for a while disturbs all of them.
func measureAll(o options) (*report, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b, err := newBench(o)
	if err != nil {
		return nil, err
	}
	defer b.close()
	rep := newReport(b)
	peers, err := b.choose(rep)
	if err != nil {
		return nil, err
	}
	for n := range o.reps {
		for _, m := range allMeasures {
			if !chosen(o.measures, m.name) || m.most > 0 && n >= m.most {
				continue
			}
			say("repetition %d of %d: %s", n+1, o.reps, m.name)
			for _, p := range peers {
				if ctx.Err() != nil {
					return nil, errors.New("interrupted")
				}
				if m.peers(p) {
					v, err := m.run(b, p, m.name)
					rep.add(sample{m.name, p.name, n, v, text(err)})
				}
			}
		}
	}
	return rep, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// choose finds the peers that can be measured, builds ours, and checks each.
func (b *bench) choose(rep *report) (peers []peer, err error) {
	for _, p := range allPeers {
		if !chosen(b.only, p.name) || b.quick && p.slow && len(b.only) == 0 {
			continue
		}
		if why := p.missing(b); why != "" {
			rep.skip(p, why)
			continue
		}
		if p.ours && b.ours.Proxy == "" {
			say("building our proxy from %s", b.tree)
			if b.ours, err = buildOurs(b.tree, b.dir, b.symbols); err != nil {
				return nil, err
			}
		}
		c, err := b.check(p)
		if err != nil {
			rep.skip(p, err.Error())
			continue
		}
		rep.Checks[p.name] = c
		peers = append(peers, p)
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("nobody is left to be measured; peers are %s", strings.Join(peerNames(), ", "))
	}
	return peers, nil
}

func measureNames() (names []string) {
	for _, m := range allMeasures {
		names = append(names, m.name)
	}
	return names
}

func peerNames() (names []string) {
	for _, p := range allPeers {
		names = append(names, p.name)
	}
	return names
}
