package sandbox_test

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/sandbox"
)

const listeningVariable = "MESHLESS_TEST_LISTENING"

// TestEnterListening: a proxy without redirect rules may bind ports and listen on them, and everything else that is
// taken from others is taken from it.
func TestEnterListening(t *testing.T) {
	if os.Getenv(listeningVariable) == "" {
		c := again(t, "^TestEnterListening$", listeningVariable+"="+t.TempDir())
		if testing.CoverMode() != "" {
			t.Skip("a confined process cannot write counters")
		}
		passes(t, c, "TestEnterListening")
		return
	}
	var log bytes.Buffer
	r := sandbox.EnterListening(os.Getenv(listeningVariable), slog.New(slog.NewTextHandler(&log, nil)))
	if !r.Listens || !strings.Contains(log.String(), "listens=true") {
		t.Errorf("%+v: %s", r, log.String())
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	if l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 64, 1, 1), Port: port}); err != nil {
		t.Errorf("a port of its own choice: %v", err)
	} else {
		l.Close()
	}
	if _, err := os.ReadFile("/etc/passwd"); r.Landlock > 0 && err == nil {
		t.Error("a file of the system can be read")
	}
	if r.Seccomp {
		if _, _, errno := unix.RawSyscall(unix.SYS_EXECVE, 0, 0, 0); errno != unix.EPERM {
			t.Errorf("execve: %v", errno)
		}
		if _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err != unix.EPERM {
			t.Errorf("a packet socket: %v", err)
		}
	}
}
