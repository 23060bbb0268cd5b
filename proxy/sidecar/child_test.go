package sidecar

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/budget"
	"github.com/meshless-dev/meshless/proxy/sandbox"
)

// childVariable, when it is set, makes this test binary a proxy of its own process: one that can be killed, or starved
// of descriptors.
const childVariable = "MESHLESS_TEST_PROXY"

// childSetup is what the variable holds.
type childSetup struct {
	Directory string
	App       netip.AddrPort
	Memory    int64  // what it takes for its limit; 0: what it finds
	Files     uint64 // RLIMIT_NOFILE; 0: what it finds
}

// init comes before TestMain and before flags are read, so that the child needs neither.
func init() {
	encoded, ok := os.LookupEnv(childVariable)
	if !ok {
		return
	}
	if err := runChild(encoded); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runChild(encoded string) error {
	var s childSetup
	if err := json.Unmarshal([]byte(encoded), &s); err != nil {
		return err
	}
	o := testOptions(serverIP, s.Directory, s.App)
	o.DrainTimeout = time.Second
	log, lines := programLog(os.Stderr, slog.LevelInfo)
	defer lines.flush()
	o.Log, o.LostLines = log, lines.Lost
	if s.Files > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: s.Files / 2, Max: s.Files}); err != nil {
			return err
		}
	}
	if s.Memory > 0 {
		r := sandbox.Measure(slog.New(slog.DiscardHandler))
		r.Memory = s.Memory
		b := budget.For(r)
		o.Budget = &b
		sandbox.LimitMemory(b)
	}
	p, err := New(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel() // the parent has closed the pipe, or is dead
		obey(os.Stdin)
	}()
	if err := json.NewEncoder(os.Stdout).Encode(p.Addresses()); err != nil {
		return err
	}
	return p.Run(ctx)
}

// obey does what the parent says: "limit N" leaves room for N more descriptors.
func obey(in io.Reader) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var more int
		if _, err := fmt.Sscanf(lines.Text(), "limit %d", &more); err != nil {
			fmt.Println("error:", err)
			continue
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err == nil {
			limit := uint64(len(entries) - 1 + more) // without that of the directory
			err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit})
		}
		fmt.Println("limit:", err)
	}
}

// child is a proxy in a process of its own. The first line that it prints is where it listens.
type child struct {
	Addresses
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	logs *logBuffer
}

// startChild starts a proxy that serves the directory; the end of the test ends it.
func startChild(t testing.TB, directory string, app netip.AddrPort, changes ...func(*exec.Cmd)) *child {
	t.Helper()
	return startChildOf(t, childSetup{Directory: directory, App: app}, changes...)
}

func startChildOf(t testing.TB, setup childSetup, changes ...func(*exec.Cmd)) *child {
	t.Helper()
	encoded, err := json.Marshal(setup)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(self), logs: &logBuffer{}}
	c.cmd.Env = append(os.Environ(), childVariable+"="+string(encoded))
	c.cmd.Stderr = c.logs
	for _, change := range changes {
		change(c.cmd)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c.Addresses)
	}
	if err != nil {
		c.kill()
		t.Fatalf("the child does not start: %v\n%s", err, c.logs)
	}
	return c
}

// kill ends the child as SIGKILL does, once.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// limit leaves the child room for so many more descriptors.
func (c *child) limit(t testing.TB, more int) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, "limit", more); err != nil {
		t.Fatal(err)
	}
	if line, err := c.out.ReadString('\n'); err != nil || line != "limit: <nil>\n" {
		t.Fatalf("the child answers %q, %v", line, err)
	}
}

// get is the answer of a port of the child; another status than 200 is an error.
func (c *child) get(addr, path string) (string, error) {
	status, body, err := fetch(http.MethodGet, addr, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, body)
	}
	return body, err
}

// awaitReady waits until the child says that it is.
func (c *child) awaitReady(t testing.TB) {
	t.Helper()
	eventually(t, "the child is ready", func() bool { _, err := c.get(c.Health, "/readyz"); return err == nil })
}

// descriptors is how many files the child has open.
func (c *child) descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		t.Skip("descriptors are counted in /proc, which this system does not have")
	}
	return len(entries)
}

// logged is how often a message is in the child's log.
func (c *child) logged(message string) int { return strings.Count(c.logs.String(), `"msg":"`+message) }

// openLimit is how many descriptors this process may have.
func openLimit(t testing.TB) uint64 {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return limit.Cur
}
