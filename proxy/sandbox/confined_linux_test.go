package sandbox_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/sandbox"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
)

const (
	worldVariable = "MESHLESS_TEST_SANDBOX"
	confinedMark  = "the process is confined now"
	tokenPath     = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// world is what the confined process of the test finds outside.
type world struct {
	Directory, Token              string
	TCP, UDP, Abstract, Container string // listeners; Container is a folder to mount over /run, for root
}

// again runs one test of this binary in a process of its own.
func again(t *testing.T, test string, env ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+test, "-test.v", "-test.timeout=60s")
	c.Env = append(os.Environ(), env...)
	c.WaitDelay = 5 * time.Second
	return c
}

func passes(t *testing.T, c *exec.Cmd, test string) {
	t.Helper()
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+test+" ") {
		t.Fatalf("in its own process: %v\n%s", err, out)
	}
}

// needRoot skips where the test cannot make a mount namespace; with CI=true that is a failure, so that a skip cannot
// hide there.
func needRoot(t *testing.T) {
	t.Helper()
	lacks(t, os.Getuid() != 0, "root, to make a mount namespace")
}

func lacks(t *testing.T, lacking bool, what string) {
	t.Helper()
	if lacking {
		program.Missing(t, "%s", what)
	}
}

// TestEnter confines a process of its own and tries there what must work and what must not. For root that process has
// the paths of a pod.
func TestEnter(t *testing.T) {
	if os.Getenv(worldVariable) != "" {
		inside(t)
		return
	}
	w := outside(t)
	encoded, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	c := again(t, "^TestEnter$", worldVariable+"="+string(encoded))
	if w.Container != "" {
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c.Stderr = &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		printed.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), confinedMark) {
			proxytest.Files{api.MeshFile: []byte("second")}.Publish(t, w.Directory)
		}
	}
	// The exit code is that of the test too, but for -cover, whose counters a confined process cannot write.
	if err := c.Wait(); !strings.Contains(printed.String(), "--- PASS: TestEnter ") || (err != nil && testing.CoverMode() == "") {
		t.Fatalf("in its own process: %v\n%s%s", err, printed.String(), out.String())
	}
	t.Logf("%s", printed.String())
}

// outside makes the world: files, an echo server, a DNS server and one on an abstract UNIX socket.
func outside(t *testing.T) world {
	t.Helper()
	w := world{Directory: t.TempDir(), Abstract: "@meshless-test-" + filepath.Base(t.TempDir()) + time.Now().Format("150405.000000")}
	proxytest.Files{api.MeshFile: []byte("first")}.Publish(t, w.Directory)
	run := t.TempDir()
	w.Token = filepath.Join(run, strings.TrimPrefix(tokenPath, "/var/run"))
	for _, folder := range []string{filepath.Dir(w.Token), filepath.Join(run, "meshless")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.Token, []byte("token"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		w.Container = run
	}
	w.TCP = greeter(t, "tcp", "127.0.0.1:0").String()
	greeter(t, "unix", w.Abstract)
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.UDP = packets.LocalAddr().String()
	names := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(answer dns.ResponseWriter, question *dns.Msg) {
		_ = answer.WriteMsg(new(dns.Msg).SetReply(question))
	})}
	served := make(chan error, 1)
	go func() { served <- names.ActivateAndServe() }()
	t.Cleanup(func() { packets.Close(); <-served })
	return w
}

// greeter says hello to everyone until the test ends.
func greeter(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr()
}

// attempt is something to try before the process is confined, when it must work, and again after.
type attempt struct {
	name string
	try  func() error
	abi  int // of Landlock that is needed for a refusal; 0 is none
}

func inside(t *testing.T) {
	var w world
	if err := json.Unmarshal([]byte(os.Getenv(worldVariable)), &w); err != nil {
		t.Fatal(err)
	}
	if w.Container != "" { // the paths of a pod
		if err := errors.Join(mountOver(filepath.Join(w.Container, "meshless"), w.Directory), unix.Mount(w.Container, "/run", "", unix.MS_BIND|unix.MS_REC, "")); err != nil {
			t.Fatal(err)
		}
		w.Directory, w.Token = api.Directory, tokenPath
	}
	n := openNetwork(t, w)
	threads := startThreads(t, 8)
	metrics := metricNames(t)
	forbidden := slices.Concat(fileAttempts(w), callAttempts(), n.attempts())
	for _, a := range forbidden {
		if err := a.try(); errors.Is(err, fs.ErrPermission) && os.Getuid() == 0 {
			t.Errorf("the control, %s before the process is confined: %v", a.name, err)
		}
	}

	var log bytes.Buffer
	r := sandbox.Enter(w.Directory, slog.New(slog.NewTextHandler(&log, nil)))
	t.Logf("%+v: %s", r, log.String())
	lacks(t, r.Landlock == 0, "Landlock")
	if !r.Seccomp || len(r.Missing) > 0 || !strings.Contains(log.String(), "seccomp=true") || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("report is %+v, logged %q", r, log.String())
	}
	for _, a := range forbidden {
		t.Run("refused/"+a.name, func(t *testing.T) {
			lacks(t, r.Landlock < a.abi, "a newer Landlock")
			if err := a.try(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("got %v, want a permission error", err)
			}
		})
	}
	t.Run("files", func(t *testing.T) { testFiles(t, w) })
	t.Run("network", n.test)
	t.Run("threads", func(t *testing.T) { threads.test(t); startThreads(t, 50).test(t) })
	t.Run("profiles", testProfiles)
	t.Run("metrics", func(t *testing.T) {
		if after := metricNames(t); !slices.Equal(metrics, after) {
			t.Errorf("metrics were %q, are %q", metrics, after)
		}
	})
}

// fileAttempts are accesses to files that a proxy does not need.
func fileAttempts(w world) []attempt {
	read := func(path string) attempt {
		return attempt{"read " + path, func() error {
			f, err := os.Open(path)
			if err == nil {
				f.Close()
			}
			return err
		}, 1}
	}
	in := func(name string) string { return filepath.Join(w.Directory, name) }
	made := func(path string, err error) error {
		if err == nil {
			err = os.Remove(path)
		}
		return err
	}
	write := func(path string) func() error {
		return func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		}
	}
	self, _ := os.Executable()
	return []attempt{
		read("/etc/passwd"), read("/"), read("/etc"), read(self), read("/dev/null"), read("/proc"), read("/proc/1/status"),
		read("/proc/sys/kernel/hostname"), read(filepath.Dir(w.Token)), read(w.Token),
		{"create a file", func() error { return made(in("new"), os.WriteFile(in("new"), nil, 0o600)) }, 1},
		{"create a directory", func() error { return made(in("new"), os.Mkdir(in("new"), 0o700)) }, 1},
		{"create a link", func() error { return made(in("new"), os.Symlink("a", in("new"))) }, 1},
		{"create a file in /tmp", func() error {
			f, err := os.CreateTemp("", "meshless-test-")
			if err == nil {
				f.Close()
				os.Remove(f.Name())
			}
			return err
		}, 1},
		{"write to a file", write(in(api.MeshFile)), 1},
		{"write to /dev/null", write("/dev/null"), 1},
		{"truncate", func() error { return os.Truncate(in(api.MeshFile), int64(len("first"))) }, 3},
		{"run a program", func() error { return exec.Command(self, "-test.run=^$").Run() }, 0},
	}
}

// testFiles reads what may be read, and sees the kubelet swap it.
func testFiles(t *testing.T, w world) {
	file := filepath.Join(w.Directory, api.MeshFile)
	if text, err := os.ReadFile(file); err != nil || string(text) != "first" {
		t.Errorf("%s holds %q, %v", file, text, err)
	}
	if _, err := os.ReadFile(filepath.Join(w.Directory, "no-such-file")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	for _, system := range []string{"/etc/resolv.conf", "/etc/hosts", "/proc/self/limits", "/proc/stat"} {
		if _, err := os.ReadFile(system); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	for _, remove := range []func() error{
		func() error { return os.Remove(file) },
		func() error { return os.Rename(file, file+"2") },
		func() error { return os.Link(file, file+"2") },
	} {
		if err := remove(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a change of the directory: %v", err)
		}
	}
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		err = watcher.Add(w.Directory)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	if _, err := os.Stdout.WriteString("\n" + confinedMark + "\n"); err != nil {
		t.Fatal(err)
	}
	late := time.After(10 * time.Second)
	for text := []byte(nil); string(text) != "second"; text, _ = os.ReadFile(file) {
		// while ..data is swapped there may be a moment without it
		select {
		case <-watcher.Events:
		case err := <-watcher.Errors:
			t.Fatal(err)
		case <-late:
			t.Fatalf("%s still holds %q", file, text)
		}
	}
	if entries, err := os.ReadDir(w.Directory); err != nil || len(entries) < 3 {
		// the old dated directory may still be there
		t.Errorf("%s holds %v, %v, want the file, ..data and a dated directory", w.Directory, entries, err)
	}
}
