package sandbox_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/listen"
)

// callAttempts are system calls with arguments that make them fail, or do nothing, for every other reason than
// permission.
func callAttempts() []attempt {
	const none = ^uintptr(0)
	call := func(name string, number uintptr, args ...uintptr) attempt {
		args = append(args, 0, 0, 0, 0, 0, 0)
		return attempt{name, func() error {
			_, _, errno := unix.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
			if errno != 0 {
				return errno
			}
			return nil
		}, 0}
	}
	socket := func(name string, family, kind, protocol int) attempt {
		return attempt{"socket of " + name, func() error {
			fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}, 0}
	}
	return []attempt{
		call("execve", unix.SYS_EXECVE), call("execveat", unix.SYS_EXECVEAT, none), call("ptrace", unix.SYS_PTRACE, 0x7fff),
		call("process_vm_readv", unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid())), call("mount", unix.SYS_MOUNT), call("umount2", unix.SYS_UMOUNT2),
		call("setns", unix.SYS_SETNS, none), call("unshare", unix.SYS_UNSHARE), call("pivot_root", unix.SYS_PIVOT_ROOT), call("chroot", unix.SYS_CHROOT),
		call("bpf", unix.SYS_BPF, none), call("perf_event_open", unix.SYS_PERF_EVENT_OPEN), call("keyctl", unix.SYS_KEYCTL, 0x7fff),
		call("init_module", unix.SYS_INIT_MODULE), call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, none),
		call("userfaultfd", unix.SYS_USERFAULTFD, none), call("io_uring_setup", unix.SYS_IO_URING_SETUP),
		call("setuid", unix.SYS_SETUID, uintptr(os.Getuid())), call("setresgid", unix.SYS_SETRESGID, none, none, none),
		call("personality", unix.SYS_PERSONALITY, 0xffffffff), call("listen", unix.SYS_LISTEN, none),
		socket("AF_PACKET", unix.AF_PACKET, unix.SOCK_RAW, 0), socket("NETLINK_SOCK_DIAG", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG),
		{"signal to another process", func() error { return unix.Kill(os.Getppid(), 0) }, 6},
	}
}

// network is what the process has opened before it is confined, and whom it knows.
type network struct {
	world
	listener net.Listener
}

func openNetwork(t *testing.T, w world) *network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &network{w, l}
}

// bindTCP gives a new socket an address, and closes it.
func bindTCP(addr unix.Sockaddr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, addr)
}

func (n *network) attempts() []attempt {
	open := func(address string) func() error {
		return func() error {
			l, err := net.Listen("tcp", address)
			if err == nil {
				l.Close()
			}
			return err
		}
	}
	return []attempt{
		{"listen at a port of the kernel's choice", open("127.0.0.1:0"), 0},
		{"listen at a port of its choice", open("127.0.0.1:28373"), 0},
		{"bind a port", func() error { return bindTCP(&unix.SockaddrInet4{Port: api.InboundPort}) }, 4},
		{"abstract UNIX socket", func() error { return hears("unix", n.Abstract, nil) }, 6},
	}
}

// hears dials and waits for the greeting.
func hears(kind, address string, dialer *net.Dialer) error {
	if dialer == nil {
		dialer = &net.Dialer{Timeout: 5 * time.Second}
	}
	c, err := dialer.Dial(kind, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
		return fmt.Errorf("%s says %q, %v", address, text, err)
	}
	return nil
}

// test uses what a proxy needs of the network.
func (n *network) test(t *testing.T) {
	if err := hears("tcp", n.TCP, nil); err != nil {
		t.Errorf("dial: %v", err)
	}
	source := netip.MustParseAddr("127.6.0.7")
	// the kernel chooses the port at bind
	early := &net.Dialer{LocalAddr: &net.TCPAddr{IP: source.AsSlice()}, Timeout: 5 * time.Second}
	for _, dialer := range []*net.Dialer{listen.AppDialer(source, 5*time.Second), early} {
		if err := hears("tcp", n.TCP, dialer); err != nil {
			t.Errorf("dial from %s: %v", source, err)
		}
	}
	go func() {
		if c, err := n.listener.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	if err := hears("tcp", n.listener.Addr().String(), nil); err != nil {
		t.Errorf("listener of before: %v", err)
	}
	client := dns.Client{Timeout: 5 * time.Second}
	if answer, _, err := client.Exchange(new(dns.Msg).SetQuestion("api.prod.svc.cluster.local.", dns.TypeA), n.UDP); err != nil || !answer.Response {
		t.Errorf("DNS: %v, %v", answer, err)
	}
	if addresses, err := net.InterfaceAddrs(); err != nil || len(addresses) == 0 {
		t.Errorf("addresses: %v, %v", addresses, err)
	}
	if names, err := net.LookupHost("localhost"); err != nil || len(names) == 0 {
		t.Errorf("localhost: %v, %v", names, err)
	}
}

// threads are operating-system threads that wait for work.
type threads struct {
	work    chan func() error
	results chan error
	count   int
}

// startThreads returns when every thread runs, so that none of them is another under a new name.
func startThreads(t *testing.T, count int) *threads {
	t.Helper()
	s := &threads{work: make(chan func() error), results: make(chan error), count: count}
	var running, ended sync.WaitGroup
	running.Add(count)
	for range count {
		ended.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			running.Done()
			for f := range s.work {
				s.results <- f()
			}
		})
	}
	running.Wait()
	t.Cleanup(func() { close(s.work); ended.Wait() })
	return s
}

// test has every thread try what none may, and looks at what the kernel says of each.
func (s *threads) test(t *testing.T) {
	var begun sync.WaitGroup
	begun.Add(s.count)
	for range s.count {
		s.work <- func() error {
			begun.Done()
			begun.Wait() // so that each of them has one
			if _, err := os.ReadFile("/etc/passwd"); !errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("thread %d reads /etc/passwd: %v", unix.Gettid(), err)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", unix.Gettid()))
			if err != nil || !bytes.Contains(status, []byte("\nSeccomp:\t2\n")) || !bytes.Contains(status, []byte("\nNoNewPrivs:\t1\n")) {
				return fmt.Errorf("thread %d: %v\n%s", unix.Gettid(), err, status)
			}
			return nil
		}
	}
	for range s.count {
		if err := <-s.results; err != nil {
			t.Error(err)
		}
	}
	all, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(all) < s.count {
		t.Errorf("%d threads, %v, want at least %d", len(all), err, s.count)
	}
	for _, file := range all {
		if status, err := os.ReadFile(file); err == nil && !bytes.Contains(status, []byte("\nSeccomp:\t2\n")) {
			// a thread may just have ended
			t.Errorf("%s:\n%s", file, status)
		}
	}
}

func testProfiles(t *testing.T) {
	var cpu, heap bytes.Buffer
	if err := pprof.StartCPUProfile(&cpu); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(200 * time.Millisecond); time.Now().Before(until); {
		_ = strings.Repeat("x", 1000)
	}
	pprof.StopCPUProfile()
	if err := pprof.Lookup("heap").WriteTo(&heap, 0); err != nil || heap.Len() == 0 || cpu.Len() == 0 {
		t.Errorf("profiles of %d and %d bytes, %v", cpu.Len(), heap.Len(), err)
	}
}

// metricNames are the names of the metrics that the runtime and the process have.
func metricNames(t *testing.T) []string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{ReportErrors: true}))
	families, err := r.Gather()
	if err != nil {
		t.Error(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	for _, want := range []string{"process_start_time_seconds", "process_open_fds", "process_max_fds", "process_network_receive_bytes_total"} {
		if !slices.Contains(names, want) {
			t.Errorf("no metric %s among %q", want, names)
		}
	}
	return names
}
