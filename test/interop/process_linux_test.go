package interop

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// patience bounds every wait for a foreign program and every exchange; nothing here takes a second by itself.
const patience = 15 * time.Second

// station is a pod in which programs of this machine run: in its network namespace, with this machine's files.
type station struct {
	*lab.Pod
	jobs chan func() // run on one thread in the namespace, to whose life that of the programs is tied
}

func newStation(t *testing.T, p *lab.Pod) *station {
	t.Helper()
	s := &station{Pod: p, jobs: make(chan func())}
	entered := make(chan error, 1)
	go func() {
		entered <- p.NS.Do(func() error {
			entered <- nil
			for job := range s.jobs {
				job()
			}
			return nil
		})
	}()
	if err := <-entered; err != nil {
		t.Fatalf("enter the pod %s: %v", p.Name, err)
	}
	t.Cleanup(func() { close(s.jobs) })
	return s
}

// process is a running program.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   program.Output
	done  chan struct{} // closed when it has ended and its output is complete
}

// start runs a program in the station until it ends by itself, end is called, or the test is over.
func (s *station) start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	return startBy(t, func(cmd *exec.Cmd) error {
		started := make(chan error, 1)
		s.jobs <- func() { started <- cmd.Start() }
		return <-started
	}, program, args...)
}

// startBy runs a program that is started by a function, which says on which thread.
func startBy(t *testing.T, start func(*exec.Cmd) error, program string, args ...string) *process {
	t.Helper()
	p := &process{name: filepath.Base(program), done: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	// no proxy, and no configuration of who runs the test
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/nonexistent"}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := start(p.cmd); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		p.cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	t.Cleanup(p.end)
	return p
}

// end kills the program. It may be called twice.
func (p *process) end() {
	p.cmd.Process.Kill()
	<-p.done
}

// say writes to the program's standard input.
func (p *process) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(p.stdin, text); err != nil {
		t.Errorf("%s no longer reads: %v\n%s", p.name, err, p.out.String())
	}
}

// await waits until the program has printed the text.
func (p *process) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(p.out.String(), text); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.done:
			if strings.Contains(p.out.String(), text) {
				return
			}
			t.Fatalf("%s ended without %q:\n%s", p.name, text, p.out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s printed no %q:\n%s", p.name, text, p.out.String())
		}
	}
}

// wait returns the exit code and everything printed; it is an error of the test if the program does not end.
func (p *process) wait(t *testing.T) (code int, printed string) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.end()
		t.Errorf("%s did not end in %s:\n%s", p.name, patience, p.out.String())
	}
	return p.cmd.ProcessState.ExitCode(), p.out.String()
}

// awaitPort waits until something listens. The program there sees a connection that says nothing.
func (p *process) awaitPort(t *testing.T, s *station, address string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := s.DialContext(t.Context(), "tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s: %v\n%s", p.name, address, err, p.out.String())
		}
	}
}

// listen opens a port in the pod; the end of the test closes it.
func (s *station) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	err := s.NS.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// dial connects from inside the pod. Every read and write is bounded.
func (s *station) dial(t *testing.T, to netip.AddrPort) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := s.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// mustDial is dial where who is refused is told so later.
func (s *station) mustDial(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := s.dial(t, to)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
