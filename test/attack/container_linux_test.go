package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/proxy/sidecar"
	"github.com/meshless-dev/meshless/test/cgroup"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// roleVariable, when it is set, gives this test binary another role. The first line of its input says more, and it ends
// with its input.
const roleVariable = "MESHLESS_TEST_ROLE"

// The roles.
const (
	proxyRole     = "proxy" // in a container of its own it can run out of memory
	attackersRole = "attackers"
)

// setup is what the proxy is told.
type setup struct {
	Directory string
	App       netip.AddrPort
}

// init comes before TestMain and before flags are read, so that the roles need neither.
func init() {
	roles := map[string]func(*bufio.Reader) error{proxyRole: serve, attackersRole: attackAll}
	play, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		return
	}
	if err := play(bufio.NewReader(os.Stdin)); err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(roleVariable)+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startRole starts this test binary in a role, with its input and output.
func startRole(t testing.TB, role string, log io.Writer) (cmd *exec.Cmd, in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(self)
	cmd.Env, cmd.Stderr = append(os.Environ(), roleVariable+"="+role), log
	in, err = cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewReader(pipe)
}

// serve is a sidecar as in a pod, but for the redirect rules. It begins when it is told what to serve, in its
// container, and ends with the pipe.
func serve(commands *bufio.Reader) error {
	var in setup
	line, err := commands.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn) // what floods leave in a log is not what is tried here
	const free = proxyIP + ":0"
	redirect := sidecar.Explicit(netip.AddrPort{}, in.App)
	redirect.Clients = clientaddr.Ranges{V4: netip.MustParsePrefix("127.6.0.0/16")}
	s, err := sidecar.New(sidecar.Options{Directory: in.Directory, DrainTimeout: time.Second, NameServers: []netip.AddrPort{}, Level: level,
		Addresses: sidecar.Addresses{Outbound: free, Inbound: free, Metrics: free, Health: free, Admin: free}, Redirect: redirect, Confine: true})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(s.Addresses()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel() // the parent is done, or dead
		_, _ = commands.ReadString('\n')
	}()
	return s.Run(ctx)
}

// container is a proxy in a memory cgroup.
type container struct {
	sidecar.Addresses
	cmd   *exec.Cmd
	log   *tail
	ended chan struct{}
}

// startContainer starts a proxy for the files in a container with so many bytes of memory, and waits until it is ready.
func startContainer(t testing.TB, limit int, files proxytest.Files, app netip.AddrPort) *container {
	t.Helper()
	group, err := cgroup.Memory(t, int64(limit))
	if err != nil {
		program.Missing(t, "a memory cgroup: %v", err)
	}
	c := &container{log: &tail{}, ended: make(chan struct{})}
	directory := t.TempDir()
	files.Publish(t, directory)
	var in io.WriteCloser
	var lines *bufio.Reader
	c.cmd, in, lines = startRole(t, proxyRole, c.log)
	group.Add(t, c.cmd.Process.Pid)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		in.Close()
		<-c.ended
	})
	if err := json.NewEncoder(in).Encode(setup{directory, app}); err != nil {
		t.Errorf("the proxy takes no word: %v", err)
	}
	line, err := lines.ReadBytes('\n')
	go func() {
		defer close(c.ended)
		_ = c.cmd.Wait()
	}()
	if err == nil {
		err = json.Unmarshal(line, &c.Addresses)
	}
	if err != nil {
		t.Fatalf("the proxy does not start: %v\n%s", err, c.log)
	}
	return c
}

// dead tells whether the kernel, or anything else, has ended the proxy.
func (c *container) dead() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// alive fails the test if the proxy is dead.
func (c *container) alive(t testing.TB) {
	t.Helper()
	if c.dead() {
		t.Fatalf("the proxy has ended: %v\n%s", c.cmd.ProcessState, c.log)
	}
}

// anonymous is the memory of the proxy that the kernel cannot take from it, in bytes.
func (c *container) anonymous(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.alive(t)
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatal("no RssAnon in /proc/PID/status")
	return 0
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const (
	tailSize = 256 << 10
	readable = 8 << 10 // of it, where a whole log is printed
)

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if over := len(l.text) - tailSize; over > 0 {
		l.text = append([]byte(nil), l.text[over:]...)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text[max(0, len(l.text)-readable):])
}

// about are the last lines that name an address, such as those that say why its connections ended.
func (l *tail) about(address string) string {
	const last = 3
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for line := range strings.Lines(string(l.text)) {
		if strings.Contains(line, address) {
			lines = append(lines, line)
		}
	}
	return "the proxy says of it: " + strings.Join(lines[max(0, len(lines)-last):], "")
}
