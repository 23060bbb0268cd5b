package sidecar

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/connection"
	"github.com/meshless-dev/meshless/test/cgroup"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// childMesh is a server's proxy in a process of its own, and what tests need to be its clients.
type childMesh struct {
	*mesh
	*child
	dir    string
	client *tls.Config
}

func startChildMesh(t *testing.T, changes ...func(*exec.Cmd)) *childMesh {
	t.Helper()
	ca := testca.New(t, proxytest.TrustDomain)
	m := &mesh{ca: ca, serverFiles: workload(t, ca, "server"), app: startApp(t, echo)}
	dir := t.TempDir()
	m.serverFiles.Sealed(t).Publish(t, dir)
	c := &childMesh{mesh: m, child: startChild(t, dir, m.app, changes...), dir: dir, client: m.tlsClient(ca.Issue(t, proxytest.ID("client")))}
	c.awaitReady(t)
	return c
}

// open is a connection of a client past the proxy, after a round trip.
func (c *childMesh) open(t *testing.T) *tls.Conn {
	t.Helper()
	conn := tls.Client(dial(t, c.Inbound), c.client)
	if err := roundTrip(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	return conn
}

// renews publishes a new leaf, and waits until the proxy shows it.
func (c *childMesh) renews(t *testing.T) {
	t.Helper()
	c.serverFiles.Leaf = c.ca.Issue(t, proxytest.ID("server"))
	c.serverFiles.Sealed(t).Publish(t, c.dir)
	c.shows(t)
}

// shows waits until the proxy shows the leaf that was published last.
func (c *childMesh) shows(t *testing.T) {
	t.Helper()
	eventually(t, "the new leaf is in use", func() bool {
		raw, err := net.Dial("tcp", c.Inbound)
		if err != nil {
			return false
		}
		defer raw.Close()
		conn := tls.Client(raw, c.client)
		return conn.Handshake() == nil && conn.ConnectionState().PeerCertificates[0].Equal(c.serverFiles.Leaf.Leaf)
	})
}

// TestStuckLog: nobody reads the log, and its pipe is full, as while a container runtime restarts. Connections live and
// end, new ones are served, files are reloaded. When somebody reads again, lines come.
func TestStuckLog(t *testing.T) {
	noLeaks(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	if _, err := unix.FcntlInt(write.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	c := startChildMesh(t, func(cmd *exec.Cmd) { cmd.Stderr = write })
	held := c.open(t)
	for range 50 { // each logs a line of about 400 bytes at its end
		conn := c.open(t)
		conn.Close()
	}
	goesOn(t, held)
	eventually(t, "the pipe is full", func() bool {
		n, err := unix.IoctlGetInt(int(read.Fd()), unix.TIOCINQ)
		return err == nil && n > 4096-600
	})
	goesOn(t, held)
	for range 3 { // each logs a line
		c.renews(t)
	}
	goesOn(t, c.open(t))
	if text, err := c.get(c.Metrics, "/metrics"); err != nil || !strings.Contains(text, "\nmeshless_log_lines_lost_total 0\n") {
		t.Errorf("lines were lost although the queue has room (%v)", err)
	}
	write.Close()
	var log logBuffer
	go func() { _, _ = io.Copy(&log, read) }()
	eventually(t, "the lines are there", func() bool { return strings.Count(log.String(), "connection closed") >= 50 })
	goesOn(t, held)
}

// TestLogReaderGone: who read the log has ended, and its pipe is broken. It ends nothing.
func TestLogReaderGone(t *testing.T) {
	noLeaks(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := startChildMesh(t, func(cmd *exec.Cmd) { cmd.Stderr = write })
	write.Close()
	held := c.open(t)
	read.Close()
	for range 5 {
		c.open(t).Close()
	}
	goesOn(t, held)
	eventually(t, "the lost lines are counted", func() bool {
		text, err := c.get(c.Metrics, "/metrics")
		return err == nil && strings.Contains(text, "\nmeshless_log_lines_lost_total ") && !strings.Contains(text, "\nmeshless_log_lines_lost_total 0\n")
	})
}

// TestStopped: the process stands still for longer than a handshake may take, as under a debugger, a frozen cgroup or a
// node that is paged out. What is open goes on, what was sent meanwhile arrives, new files are taken.
func TestStopped(t *testing.T) {
	slow(t)
	noLeaks(t)
	c := startChildMesh(t)
	held, silent := c.open(t), dial(t, c.Inbound)
	for _, conn := range []net.Conn{held, silent} { // the stop is as long as what dial allows
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
	}
	goesOn(t, c.open(t)) // so the silent one before it is accepted
	signal := func(s syscall.Signal) {
		if err := c.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	if _, err := io.WriteString(held, "while it stands still"); err != nil {
		t.Error(err)
	}
	waiting := make(chan error, 1)
	queued := dial(t, c.Inbound)
	_ = queued.SetDeadline(time.Now().Add(time.Minute))
	go func() { waiting <- roundTrip(tls.Client(queued, c.client), "in the kernel's queue") }()
	c.serverFiles.Leaf = c.ca.Issue(t, proxytest.ID("server"))
	c.serverFiles.Sealed(t).Publish(t, c.dir)
	time.Sleep(connection.HandshakeTimeout + time.Second)
	signal(syscall.SIGCONT)
	got := make([]byte, len("while it stands still"))
	if _, err := io.ReadFull(held, got); err != nil || string(got) != "while it stands still" {
		t.Errorf("what was sent meanwhile: %q, %v", got, err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("a connection that was opened meanwhile: %v", err)
	}
	cut(t, silent)
	c.shows(t)
	goesOn(t, held)
}

// TestWithoutProc: a container whose /proc is empty or cannot be written gets the same service.
func TestWithoutProc(t *testing.T) {
	needRoot(t)
	for name, mount := range map[string]string{"empty": "mount -t tmpfs -o ro none /proc", "read-only": "mount -t proc -o ro none /proc"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			c := startChildMesh(t, within(mount, func(a *syscall.SysProcAttr) { a.Unshareflags = syscall.CLONE_NEWNS }))
			held := c.open(t)
			c.renews(t)
			if _, err := c.get(c.Metrics, "/metrics"); err != nil {
				t.Errorf("metrics: %v", err)
			}
			goesOn(t, held)
		})
	}
}

// TestNoInotify: the kernel counts inotify instances of a user, and every proxy of a node may be of the same one. Where
// none is left, polling finds new files.
func TestNoInotify(t *testing.T) {
	noLeaks(t)
	c := startChildMesh(t, within("echo 0 > /proc/sys/user/max_inotify_instances", func(a *syscall.SysProcAttr) {
		a.Cloneflags = syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}))
	held := c.open(t)
	before := c.descriptors(t)
	for range 5 {
		c.renews(t)
	}
	eventually(t, "nothing is left open by the attempts", func() bool { return c.descriptors(t) <= before+2 })
	goesOn(t, held)
}

// TestSocketMemory: the container's limit of memory for TCP is used up by clients that do not read. Others are slow at
// worst, and when those are gone all is as before.
func TestSocketMemory(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	const limit = 256 << 10
	group, err := cgroup.TCP(t, limit)
	if err != nil {
		program.Missing(t, "a limit of memory for TCP: %v", err)
	}
	c := startChildMesh(t, within("echo $$ > "+group.Folder+"/cgroup.procs", func(*syscall.SysProcAttr) {}))
	t.Cleanup(c.kill) // before the group is removed
	held := c.open(t)
	var greedy []*tls.Conn
	for range 8 {
		conn := c.open(t)
		greedy = append(greedy, conn)
		go func() { _, _ = conn.Write(make([]byte, 8<<20)) }() // comes back, and is not read
	}
	eventually(t, "the limit is reached", func() bool {
		return group.Most(t, "memory.kmem.tcp.max_usage_in_bytes") >= limit
	})
	goesOn(t, held)
	goesOn(t, c.open(t))
	for _, conn := range greedy {
		conn.Close()
	}
	c.renews(t)
	goesOn(t, held)
}

// TestLostVolume: the volume is empty, gone, or unmounted. The last good generation stays in use, and when the volume
// is back, so are reloads.
func TestLostVolume(t *testing.T) {
	losses := map[string]struct {
		lose, restore func(t *testing.T, dir string)
	}{
		"emptied": {func(t *testing.T, dir string) {
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
			if err != nil {
				t.Fatal(err)
			}
		}, func(*testing.T, string) {}},
		"removed": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		"another at its place": {func(t *testing.T, dir string) {
			if err := errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}, func(*testing.T, string) {}},
		"mounted over, then unmounted": {func(t *testing.T, dir string) {
			needRoot(t)
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, dir string) {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for name, loss := range losses {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			m := startMesh(t, echo)
			held := m.client.open(t, "hello")
			loss.lose(t, m.server.dir)
			m.server.wantMetric(t, "meshless_reload_failing 1")
			m.client.mustExchange(t, "hello")
			if err := m.server.Ready(); err != nil {
				t.Errorf("not ready: %v", err)
			}
			loss.restore(t, m.server.dir)
			m.serverFiles.Leaf = m.ca.Issue(t, proxytest.ID("server"))
			m.server.publish(t, m.serverFiles.Sealed(t))
			m.client.mustExchange(t, "hello")
			goesOn(t, held)
			if strings.Contains(m.server.scrape(t), "\nmeshless_reload_failing 1\n") {
				t.Error("reloads still count as failing")
			}
		})
	}
}

// TestManyGenerations: a kubelet that swaps the files as often as it can, for as many generations as ten minutes
// bring at one a second. Nothing is kept of them, and connections live.
func TestManyGenerations(t *testing.T) {
	noLeaks(t)
	generations := 600
	if testing.Short() {
		generations = 100
	}
	m := startMesh(t, echo)
	m.server.level.Set(slog.LevelError) // this test keeps the log
	held := m.client.open(t, "hello")
	leaf := svid.EncodeCertificates(m.serverFiles.Leaf.Leaf)
	content := m.serverFiles.Plain(t)
	swap := func(n int) {
		for i := range n {
			before := m.server.generation()
			// a line more or less makes another generation of the same certificate
			content.With(api.LeafFile, append(slices.Clone(leaf), strings.Repeat("\n", i%2)...)).Publish(t, m.server.dir)
			eventually(t, "the generation is in use", func() bool { return m.server.generation() > before })
		}
	}
	swap(50)
	goroutines, descriptors, heap := runtime.NumGoroutine(), ownDescriptors(t), liveHeap()
	swap(generations)
	goesOn(t, held)
	m.client.mustExchange(t, "hello")
	eventually(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "descriptors are as before", func() bool { return ownDescriptors(t) <= descriptors })
	if grown := int64(liveHeap()) - int64(heap); grown > int64(generations)*200 {
		t.Errorf("the heap has grown by %d bytes in %d generations", grown, generations)
	}
}

func ownDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// within runs a command of the shell in the child's process before the proxy.
func within(command string, attributes func(*syscall.SysProcAttr)) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.Args = []string{"sh", "-c", command + ` && exec "$0"`, c.Path}
		c.Path = "/bin/sh"
		c.SysProcAttr = new(syscall.SysProcAttr)
		attributes(c.SysProcAttr)
	}
}

// needRoot skips where the test cannot mount, or make a cgroup; with CI=true that is a failure.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		program.Missing(t, "root")
	}
}
