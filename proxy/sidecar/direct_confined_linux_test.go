package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/program"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

const confinedVariable = "MESHLESS_TEST_DIRECT"

// TestDirectConfined: in a network namespace of its own, with a proxy's user and no capability, the name server has its
// privileged port by the sysctl alone, and the proxy still listens for Services once it is confined.
func TestDirectConfined(t *testing.T) {
	if directory := os.Getenv(confinedVariable); directory != "" {
		if err := confinedPod(t, directory); err != nil {
			t.Fatal(err)
		}
		fmt.Println("the confined pod is fine")
		os.Exit(0) // a confined process cannot clean up
	}
	if os.Getuid() != 0 {
		program.Missing(t, "root, to make a network namespace")
	}
	directory := t.TempDir()
	if err := os.Chmod(filepath.Dir(directory), 0o755); err != nil { // for the proxy's user
		t.Fatal(err)
	}
	workload(t, testca.New(t, proxytest.TrustDomain), "alpha", func(m *meshmap.Map) {
		m.ServicePorts = map[string]netset.Ports{"server.prod": netset.PortsOf(80, 5432)}
	}).Plain(t).Publish(t, directory)
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirectConfined$", "-test.timeout=60s")
	c.Env = append(os.Environ(), confinedVariable+"="+directory)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if out, err := c.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("the confined pod is fine")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// confinedPod is what that process does. It begins as root, as the kubelet and the runtime do.
func confinedPod(t *testing.T, directory string) error {
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := syscall.Setresuid(0, api.DefaultUID, 0); err != nil {
		return err
	}
	r := startRecords(t)
	r.add(t, "server"+zone+" 5 IN A "+serverIP)
	var log logBuffer
	o := Options{Directory: directory, Direct: &podplan.Direct{Ports: netset.PortsOf(8080)}, NameServers: []netip.AddrPort{r.at}, Confine: true,
		PodAddresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(clientIP)} }, Log: slog.New(slog.NewJSONHandler(&log, nil))}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "net.ipv4.ip_unprivileged_port_start must be 0") {
		return fmt.Errorf("without the sysctl: %w", err)
	}
	const sysctl = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	if err := errors.Join(syscall.Setresuid(0, 0, 0), os.WriteFile(sysctl, []byte("0"), 0), syscall.Setresuid(api.DefaultUID, api.DefaultUID, api.DefaultUID)); err != nil {
		return err
	}
	s, err := New(o)
	if err != nil {
		return err
	}
	go func() { _ = s.Run(context.Background()) }()
	if s.Addresses().Resolver != net.JoinHostPort(api.ResolverIP, "53") {
		return fmt.Errorf("the name server is at %s", s.Addresses().Resolver)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, "it is ready", func() bool { return s.Ready() == nil })
	addrs, err := (&pod{Sidecar: s}).resolve(t, "server"+zone)
	if err != nil || len(addrs) != 1 {
		return fmt.Errorf("server leads to %v: %w", addrs, err)
	}
	for _, port := range []uint16{80, 5432} {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(addrs[0], port).String(), 5*time.Second)
		switch {
		case err == nil:
			c.Close()
		case !errors.Is(err, syscall.ECONNRESET): // nobody serves there, and that may be seen as early as this
			return err
		}
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, `"msg":"confined`) && strings.Contains(line, `"listens":true`) {
			return nil
		}
	}
	return errors.New("no line of the log says that the process is confined, and may listen")
}

// loopbackUp brings up the interface of a new network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
