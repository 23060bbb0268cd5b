package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/test/program"
)

// report is a run: what was measured where, and every figure of every repetition. It is the JSON of -o.
type report struct {
	Date, Machine, Go, Commit string
	Load                      float64 // load average of the last minute, before the run
	Duration, Warmup, Settle  string
	Reps, Connections         int
	Versions                  map[string]string // of the peers
	Skipped                   map[string]string // peer -> why
	Checks                    map[string]checked
	Samples                   []sample
}

// sample is one measurement of one peer.
type sample struct {
	Measure, Peer string
	Rep           int
	Values        values
	Error         string
}

func newReport(b *bench) *report {
	return &report{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Load: loadAverage(), Go: runtime.Version(), Commit: commit(b.tree), Versions: versions(b),
		Duration: b.duration.String(), Warmup: b.warmup.String(), Settle: b.settle.String(), Reps: b.reps, Connections: b.connections,
		Skipped: map[string]string{}, Checks: map[string]checked{}}
}

func (r *report) skip(p peer, why string) {
	why = oneLine(why)
	say("skipped: %s: %s", p.name, why)
	r.Skipped[p.name] = why
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (r *report) add(s sample) {
	if s.Error = oneLine(s.Error); s.Error != "" {
		say("failed: %s of %s: %s", s.Measure, s.Peer, s.Error)
	}
	r.Samples = append(r.Samples, s)
}

// machine is what this one is, as far as figures depend on it.
func machine() string {
	model := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if _, name, ok := strings.Cut(line, "model name\t: "); ok {
			model = strings.TrimSpace(name)
			break
		}
	}
	var name unix.Utsname
	_ = unix.Uname(&name)
	var memory unix.Sysinfo_t
	_ = unix.Sysinfo(&memory)
	gibibytes := (memory.Totalram*uint64(memory.Unit) + 1<<29) >> 30
	return fmt.Sprintf("%s, %d cores, %d GiB, Linux %s %s", model, runtime.NumCPU(), gibibytes, unix.ByteSliceToString(name.Release[:]), runtime.GOARCH)
}

// loadAverage is 0 on a machine that is free for the run.
func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	average, _ := strconv.ParseFloat(first, 64)
	return average
}

func commit(tree string) string {
	out, err := exec.Command("git", "-C", tree, "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// versions are what the programs say of themselves, and ghostunnel's build information of it.
func versions(b *bench) map[string]string {
	v := map[string]string{}
	for program, ask := range map[string]struct{ command, version string }{
		"nginx":      {"nginx -v", `nginx/(\S+)`},
		"haproxy":    {"haproxy -v", `version (\d[^-+\s]*)`},
		"stunnel":    {"stunnel4 -version", `stunnel (\d\S*)`},
		"ghostunnel": {"go version -m " + program.Lookup("ghostunnel"), `/ghostunnel\s+v(\d\S*)`},
	} {
		argv := strings.Fields(ask.command)
		out, _ := exec.Command(argv[0], argv[1:]...).CombinedOutput() // without the program there is no version
		if found := regexp.MustCompile(ask.version).FindSubmatch(out); found != nil {
			v[program] = string(found[1])
		}
	}
	return v
}

func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// spread is median, least and most of a figure's repetitions.
type spread struct {
	Median, Min, Max float64
	N                int
}

// figure is the spread of one figure of one peer; N is 0 where it was not measured.
func (r *report) figure(measure, peer, key string) spread {
	var all []float64
	for _, s := range r.Samples {
		if v, ok := s.Values[key]; ok && s.Measure == measure && s.Peer == peer {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return spread{}
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1], n}
}

// failed tells whether every repetition of a measurement failed.
func (r *report) failed(measure, peer string) bool {
	return slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Measure == measure && s.Peer == peer && s.Error != "" })
}

// number writes a figure with three digits that mean something.
func number(f float64) string {
	switch {
	case f >= 100:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case f >= 10:
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return strconv.FormatFloat(f, 'f', 2, 64)
}

func (s spread) String() string {
	if s.N == 1 {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

// document replaces what stands between the marks of performance.md, and writes the plots.
func (r *report) document(folder string) error {
	path := filepath.Join(folder, "performance.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(beginMark))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark))
	if !ok || !ok2 {
		return fmt.Errorf("%s: has no %s and %s", path, beginMark, endMark)
	}
	images, err := r.plots(filepath.Join(folder, "img"))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s%s\n%s\n%s%s%s", before, beginMark, r.markdown(), images, endMark, after)
	return os.WriteFile(path, out.Bytes(), 0o644)
}
