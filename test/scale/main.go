//go:build linux || darwin

// Command scale measures what the function costs by the thousand: time, processor and memory for each workload, against
// `kustomize build` alone on the same input. It builds kustomize and meshless, writes packages of the sizes that it is
// told (package manifests), and prints a table in Markdown:
//
//	go run ./test/scale                        # 100, 1,000 and 10,000 workloads; kustomize up to 1,000
//	go run ./test/scale -workloads 200 -namespaces 1 -runs 3
//	go run ./test/scale -workloads 3000 -kustomize 3000 # kustomize without a function, and meshless build; minutes
//
// Figures are those that the kernel keeps of a process and its children (getrusage). Of several runs the one with the
// least processor time counts: noise only adds.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshless-dev/meshless/test/scale/manifests"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

// bench is one call of this command.
type bench struct {
	folder     string // for everything that is written
	namespaces int
	kustomized int // packages up to this size are built by kustomize as well, which takes more than linear time
	protocol   int // packages up to this size are built by kustomize with a function, which takes several times as long
	runs       int
	out, log   io.Writer
}

func run(args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	flags.SetOutput(log)
	sizes := flags.String("workloads", "100,1000,10000", "sizes of the packages, separated by commas")
	b := &bench{out: out, log: log}
	flags.IntVar(&b.namespaces, "namespaces", 50, "namespaces that the workloads are spread over")
	flags.IntVar(&b.kustomized, "kustomize", 1000, "largest package that is built by kustomize, which takes more than linear time")
	flags.IntVar(&b.protocol, "function", 400, "largest package that is built by kustomize with a function, which takes several times as long")
	flags.IntVar(&b.runs, "runs", 1, "runs of everything; the best counts")
	program := flags.String("meshless", "", "measure this program instead of building one")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil // it is printed
	case err != nil:
		return err
	}
	if b.namespaces < 1 || b.runs < 1 {
		return errors.New("-namespaces and -runs are at least 1")
	}
	folder, err := os.MkdirTemp("", "meshless-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	b.folder = folder
	if err := b.build(*program); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d CPUs (%s/%s), %s, %d namespaces, best of %d\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), b.namespaces, b.runs)
	fmt.Fprint(out, "| workloads | what | wall | CPU | peak RSS | wall each | CPU each | RSS each |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-workloads: %q is no number of workloads", text)
		}
		if err := b.measure(n); err != nil {
			return fmt.Errorf("%d workloads: %w", n, err)
		}
	}
	return nil
}

func (b *bench) path(parts ...string) string {
	return filepath.Join(append([]string{b.folder}, parts...)...)
}

// build makes the two programs, as `make build` does.
func (b *bench) build(program string) error {
	packages := map[string]string{"kustomize": "sigs.k8s.io/kustomize/kustomize/v5", "meshless": "github.com/meshless-dev/meshless/cmd/meshless"}
	if program != "" {
		absolute, err := filepath.Abs(program)
		if err == nil {
			err = os.Symlink(absolute, b.path("meshless"))
		}
		if err != nil {
			return err
		}
		delete(packages, "meshless")
	}
	for name, of := range packages {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.path(name), of)
		cmd.Env, cmd.Stderr = append(os.Environ(), "CGO_ENABLED=0"), b.log
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building %s: %w", name, err)
		}
	}
	return nil
}

// measure prints the rows of one size.
func (b *bench) measure(n int) error {
	meshless, kustomize := b.path("meshless"), b.path("kustomize")
	if n <= b.kustomized {
		plain, meshed := b.path("plain"), b.path("meshed")
		if err := b.kustomizations(plain, meshed, n); err != nil {
			return err
		}
		build := []string{kustomize, "build", "--enable-alpha-plugins", "--enable-exec"}
		steps := []step{
			{what: "`kustomize build` alone", args: append(build, plain)},
			{what: "`meshless issue`, first", args: []string{meshless, "issue", meshed}, before: func() error { return emptyState(meshed) }},
			{what: "`meshless issue`, nothing due", args: []string{meshless, "issue", meshed}},
			{what: "`kustomize build` of the same input, without the function", args: append(build, meshed), before: func() error { return listFunction(meshed, false) }},
			{what: "`meshless build`", args: []string{meshless, "build", meshed}, out: "built.yaml", before: func() error { return listFunction(meshed, true) }},
			{what: "`meshless verify` of that", args: []string{meshless, "verify", "-"}, in: "built.yaml"},
		}
		if n <= b.protocol {
			steps = append(steps,
				step{what: "`kustomize build`, function that copies (cat)", args: append(build, meshed), before: func() error { return manifests.WriteConfig(meshed, "/bin/cat") }},
				step{what: "`kustomize build` with the function", args: append(build, meshed), before: func() error { return manifests.WriteConfig(meshed, meshless) }})
		}
		for _, step := range steps {
			if err := b.row(n, step); err != nil {
				return err
			}
		}
	}
	if err := b.resourceList("first.yaml", n); err != nil {
		return err
	}
	for _, step := range []step{
		{what: "function, first render", args: []string{meshless}, in: "first.yaml", out: "steady.yaml"},
		{what: "function, nothing due", args: []string{meshless}, in: "steady.yaml", out: "again.yaml"},
		{what: "verify", args: []string{meshless, "verify", "-"}, in: "again.yaml"},
	} {
		if err := b.row(n, step); err != nil {
			return err
		}
	}
	return nil
}

// kustomizations writes the package twice: as it is, and with a MutualTLS.
func (b *bench) kustomizations(plain, meshed string, n int) error {
	for folder, function := range map[string]string{plain: "", meshed: b.path("meshless")} {
		if err := errors.Join(os.RemoveAll(folder), os.Mkdir(folder, 0o755), manifests.WriteKustomization(folder, n, b.namespaces, function)); err != nil {
			return err
		}
	}
	return nil
}

// emptyState makes the next issue the first one.
func emptyState(folder string) error {
	return os.RemoveAll(filepath.Join(folder, "mtls"))
}

// listFunction lists the function in the kustomization, or does not.
func listFunction(folder string, listed bool) error {
	const entry = "transformers:\n- mtls.yaml\n"
	name := filepath.Join(folder, "kustomization.yaml")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	text = bytes.ReplaceAll(text, []byte(entry), nil)
	if listed {
		text = append(text, entry...)
	}
	return os.WriteFile(name, text, 0o644)
}

func (b *bench) resourceList(name string, n int) error {
	f, err := os.Create(b.path(name))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return errors.Join(manifests.WriteResourceList(w, n, b.namespaces), w.Flush(), f.Close())
}

// step is one command to measure. Files are named from the bench's folder.
type step struct {
	what    string
	args    []string
	in, out string
	before  func() error
}

// cost is what a run took.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes, of the largest process
}

// row measures a step and prints what it took.
func (b *bench) row(n int, s step) error {
	var best cost
	for i := range b.runs {
		fmt.Fprintf(b.log, "%d workloads: %s (%d of %d)\n", n, s.what, i+1, b.runs)
		if s.before != nil {
			if err := s.before(); err != nil {
				return err
			}
		}
		c, err := b.run(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		if i == 0 || c.cpu < best.cpu {
			best = c
		}
	}
	each := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3/float64(n)) }
	_, err := fmt.Fprintf(b.out, "| %d | %s | %.2f s | %.2f s | %d MiB | %s | %s | %d KiB |\n",
		n, s.what, best.wall.Seconds(), best.cpu.Seconds(), best.rss>>20, each(best.wall), each(best.cpu), best.rss>>10/int64(n))
	return err
}

// run runs a step once. This process stays small: a child's peak counts from that of its parent.
func (b *bench) run(s step) (c cost, err error) {
	var complaint bytes.Buffer
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Stderr = &complaint
	if s.in != "" {
		in, err := os.Open(b.path(s.in))
		if err != nil {
			return c, err
		}
		defer in.Close()
		cmd.Stdin = in
	}
	out, err := os.Create(b.path(cmp.Or(s.out, "discarded")))
	if err != nil {
		return c, err
	}
	defer out.Close()
	cmd.Stdout = out
	start := time.Now()
	err = cmd.Run()
	c.wall = time.Since(start)
	if err != nil {
		return c, fmt.Errorf("%w: %s", err, complaint.Bytes()[max(0, complaint.Len()-1000):])
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	c.rss = int64(usage.Maxrss)
	if runtime.GOOS == "linux" {
		c.rss *= 1024 // the others count bytes
	}
	return c, nil
}
