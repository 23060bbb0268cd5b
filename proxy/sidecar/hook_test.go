package sidecar

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/test/testca"
)

// hooks are the lifecycle hooks of the pod, which find its ports elsewhere than in a real one.
func (p *pod) hooks() hooks { return hooks{health: p.Addresses().Health, admin: p.Addresses().Admin} }

func TestWait(t *testing.T) {
	noLeaks(t)
	p := startPod(t, serverIP, netip.MustParseAddrPort(appIP+":1"), nil)
	h := p.hooks()
	began := time.Now()
	err := h.wait(t.Context(), podplan.WaitArgs{Timeout: 500 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "not ready after 500ms: no good generation") {
		t.Errorf("without files: %v, want why the proxy is not ready", err)
	}
	if took := time.Since(began); took < 500*time.Millisecond || took > 3*time.Second {
		t.Errorf("waited %v, want the timeout of 500 ms", took)
	}
	ready := make(chan error, 1)
	go func() { ready <- h.wait(t.Context(), podplan.WaitArgs{Timeout: 10 * time.Second}) }()
	select {
	case err := <-ready:
		t.Fatalf("ended with %v before the proxy was ready", err)
	case <-time.After(300 * time.Millisecond):
	}
	workload(t, testca.New(t, "cluster.local"), "server").Sealed(t).Publish(t, p.dir)
	if err := <-ready; err != nil {
		t.Errorf("with files: %v", err)
	}
	p.stop()
	if err := h.wait(t.Context(), podplan.WaitArgs{Timeout: 300 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without a proxy: %v", err)
	}
	if err := h.drain(t.Context(), podplan.DrainArgs{Timeout: 10 * time.Second}); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("drain without a proxy: %v", err)
	}
}

// TestDrainHook: peers that do not know yet that the pod ends still get in; the app, which was told to end at the same
// time, can work to its end.
func TestDrainHook(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, echo)
	h := m.server.hooks()
	c := m.client.open(t, "before")
	began, ended := time.Now(), make(chan error, 1)
	go func() {
		ended <- h.drain(t.Context(), podplan.DrainArgs{Delay: time.Second, Timeout: 20 * time.Second})
	}()
	if err := exchange(m.client.outboundAddr(), "who has not learned yet"); err != nil || time.Since(began) > time.Second {
		t.Errorf("a new connection within the delay: %v, after %v", err, time.Since(began))
	}
	m.server.awaitClosed(t)
	if took := time.Since(began); took < time.Second {
		t.Errorf("refused after %v, want not before the delay of 1 s", took)
	}
	m.server.dials(m.app)
	for range 12 { // longer than a moment of quiet
		if err := exchange(m.server.outboundAddr(), "the app still works"); err != nil {
			t.Errorf("outbound while draining: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := roundTrip(c, "while draining"); err != nil {
		t.Errorf("a live connection was cut: %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("ended with %v while a connection was open", err)
	default:
	}
	c.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if len(m.server.done) > 0 {
		t.Error("the proxy has ended without a signal")
	}
	m.server.Shutdown()
	if err := m.server.stopWhenDrained(); err != nil {
		t.Error(err)
	}
}

// TestDrainHookTimeout: hook and signal share one grace period; what the hook has waited, the end does not wait again.
func TestDrainHookTimeout(t *testing.T) {
	slow(t)
	noLeaks(t)
	m := startMesh(t, echo)
	m.client.open(t, "before")
	began := time.Now()
	if err := m.server.hooks().drain(t.Context(), podplan.DrainArgs{Timeout: m.server.options.DrainTimeout}); err != nil {
		t.Errorf("ended with %v", err)
	}
	m.server.Shutdown()
	if err := m.server.stopWhenDrained(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second || took > 3500*time.Millisecond {
		t.Errorf("ended after %v, want one drain timeout of 2 s", took)
	}
}

// TestDrainHookOfUnreadyProxy: the kubelet runs preStop as well when postStart has failed.
func TestDrainHookOfUnreadyProxy(t *testing.T) {
	noLeaks(t)
	p := startPod(t, serverIP, netip.MustParseAddrPort(appIP+":1"), nil)
	began := time.Now()
	if err := p.hooks().drain(t.Context(), podplan.DrainArgs{Delay: time.Minute, Timeout: time.Minute}); err != nil || time.Since(began) > 20*time.Second {
		t.Errorf("ended after %v with %v, want no delay for a proxy that nobody knows", time.Since(began), err)
	}
}

// TestQuit: the app of a Job ends the sidecar; what it has begun is finished first.
func TestQuit(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	c := m.client.open(t, "before")
	if status, _ := m.client.get(t, "GET", "/quit"); status != http.StatusMethodNotAllowed {
		t.Errorf("GET /quit: %d, want 405: a link or an image must not end the proxy", status)
	}
	status, state := m.client.get(t, "POST", "/quit")
	if status != 200 || !strings.Contains(state, `"draining": true`) || !strings.Contains(state, `"outboundConnections": 1`) {
		t.Errorf("POST /quit: %d %s", status, state)
	}
	if err := roundTrip(c, "to its end"); err != nil {
		t.Errorf("a live connection was cut: %v", err)
	}
	c.Close()
	select {
	case err := <-m.client.done:
		if err != nil {
			t.Errorf("ended with %v, which would fail the Job", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("does not end")
	}
	if _, err := net.Dial("tcp", m.client.outboundAddr()); err == nil {
		t.Error("connections are still taken")
	}
}
