package sidecar

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// soakVariable sets how long TestSoak loads the proxies: MESHLESS_SOAK=10m go test -run TestSoak -v ./proxy
const (
	soakVariable = "MESHLESS_SOAK"
	soakDefault  = 8 * time.Second
	victimIP     = "127.0.0.15"
	// from one change to the next: what was opened before a change has ended by the one after
	soakSettle = 500 * time.Millisecond
)

// soak is a client that must never fail and a victim to whom things happen, both of the same server.
type soak struct {
	*mesh
	t       *testing.T
	victim  *pod
	victimF proxytest.Workload
	bundle  []byte // of all three
	served  atomic.Int64
	busy    sync.RWMutex // held for reading while a request runs
}

// settle waits until every request that began before has ended, on a machine however busy: connections of an authority
// that is dropped are cut, and rightly so.
func (s *soak) settle() {
	s.busy.Lock()
	defer s.busy.Unlock()
}

// TestSoak loads the proxies while everything that can change does: leaves, keys, authorities, revocations, policy, and
// files that are no good. A request that should succeed succeeds, a peer that is shut out stays out, and nothing
// accumulates.
func TestSoak(t *testing.T) {
	slow(t)
	noLeaks(t)
	duration := soakDefault
	if text := os.Getenv(soakVariable); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
	}
	s := &soak{mesh: startMesh(t, echo), t: t}
	s.bundle = s.ca.PEM()
	s.victimF = workload(t, s.ca, "victim", withServer("server"))
	s.victim = startPod(t, victimIP, netip.MustParseAddrPort(victimIP+":1"), s.victimF.Sealed(t))
	s.victim.dials(s.server.inboundAddr())
	for _, p := range []*pod{s.client, s.server, s.victim} {
		p.level.Set(slog.LevelError) // the log is kept in memory here, and would be what grows
	}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var load sync.WaitGroup
	for _, worker := range []func() error{s.short, s.short, s.long, s.large} {
		load.Go(func() {
			for ctx.Err() == nil {
				s.busy.RLock()
				if err := worker(); err != nil {
					t.Errorf("a request that should succeed: %v", err)
				}
				s.busy.RUnlock()
			}
		})
	}
	var samples []usage
	rounds := 0
	for ; ctx.Err() == nil; rounds++ {
		for _, step := range []func(){s.renewClient, s.renewServer, s.revokeVictim, s.denyVictim, s.breakFiles, s.rollAuthority} {
			step()
		}
		samples = append(samples, measure())
	}
	load.Wait()
	t.Logf("%d requests and %d rounds of changes in %s", s.served.Load(), rounds, duration)
	judgeUsage(t, samples)
}

func (s *soak) short() error {
	s.served.Add(1)
	return exchange(s.client.outboundAddr(), "a short request")
}

// long keeps a connection for some hundred milliseconds, across changes.
func (s *soak) long() error {
	c, err := net.DialTimeout("tcp", s.client.outboundAddr(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	for range 20 {
		s.served.Add(1)
		if err := roundTrip(c, "one of many"); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func (s *soak) large() error {
	c, err := net.DialTimeout("tcp", s.client.outboundAddr(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	sent := make([]byte, 512<<10)
	_, _ = rand.Read(sent)
	var write sync.WaitGroup
	write.Go(func() {
		_, _ = c.Write(sent) // what is missing shows in what comes back
		_ = c.(*net.TCPConn).CloseWrite()
	})
	defer write.Wait()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("%d bytes came back of %d", len(got), len(sent))
	}
	s.served.Add(1)
	return err
}

func (s *soak) publish(p *pod, w proxytest.Workload) {
	p.publish(s.t, w.Sealed(s.t).With(api.BundleFile, s.bundle))
}

func (s *soak) renewClient() {
	s.clientFiles.Leaf = s.ca.Issue(s.t, proxytest.ID("client"))
	s.publish(s.client, s.clientFiles)
	time.Sleep(soakSettle)
}

func (s *soak) renewServer() {
	s.serverFiles.Leaf = s.ca.Issue(s.t, proxytest.ID("server"))
	s.publish(s.server, s.serverFiles)
	time.Sleep(soakSettle)
}

// revokeVictim takes the victim's key away while it holds a connection, then gives it a new one.
func (s *soak) revokeVictim() {
	held := dial(s.t, s.victim.outboundAddr())
	if err := roundTrip(held, "before"); err != nil {
		s.t.Errorf("the victim before: %v", err)
	}
	s.serverFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(s.victimF.Leaf.Leaf)}
	s.publish(s.server, s.serverFiles)
	s.shutOut("revoked", held)
	s.victimF.Leaf = s.ca.Issue(s.t, proxytest.ID("victim"))
	s.publish(s.victim, s.victimF)
	if err := exchange(s.victim.outboundAddr(), "with a new key"); err != nil {
		s.t.Errorf("the victim with a new key: %v", err)
	}
	s.serverFiles.Mesh.RevokedKeys = nil
	s.publish(s.server, s.serverFiles)
	time.Sleep(soakSettle)
}

// denyVictim lets the client alone in, then everyone again.
func (s *soak) denyVictim() {
	held := dial(s.t, s.victim.outboundAddr())
	if err := roundTrip(held, "before"); err != nil {
		s.t.Errorf("the victim before: %v", err)
	}
	s.serverFiles.Mesh.Inbound.Policy = []meshmap.Policy{{Workload: proxytest.ID("server"), Rules: []meshmap.Rule{{From: []string{proxytest.ID("client")}}}}}
	s.publish(s.server, s.serverFiles)
	s.shutOut("denied", held)
	s.serverFiles.Mesh.Inbound.Policy = nil
	s.publish(s.server, s.serverFiles)
	if err := exchange(s.victim.outboundAddr(), "allowed again"); err != nil {
		s.t.Errorf("the victim, allowed again: %v", err)
	}
	time.Sleep(soakSettle)
}

// shutOut expects that the victim's open connection ends and that it gets no new one.
func (s *soak) shutOut(what string, held net.Conn) {
	defer held.Close() // now, not at the end of the test: descriptors are counted
	_ = held.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := held.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		s.t.Errorf("%s: the victim keeps its connection (%v)", what, err)
	}
	if err := exchange(s.victim.outboundAddr(), "let me in"); err == nil {
		s.t.Errorf("%s: the victim is let in", what)
	}
}

// breakFiles gives the server files that do not fit together, which must change nothing.
func (s *soak) breakFiles() {
	before := s.server.generation()
	other := s.serverFiles
	other.Leaf = s.victimF.Leaf
	other.Sealed(s.t).With(api.BundleFile, s.bundle).Publish(s.t, s.server.dir)
	eventually(s.t, "the server notices bad files", func() bool { return s.server.source.Failure() != nil })
	if s.server.generation() != before {
		s.t.Error("bad files are in use")
	}
	s.publish(s.server, s.serverFiles)
	time.Sleep(soakSettle)
}

// rollAuthority changes the authority as the function does: published everywhere, then signing, then dropped.
func (s *soak) rollAuthority() {
	next := testca.New(s.t, proxytest.TrustDomain)
	all := func() {
		s.publish(s.server, s.serverFiles)
		s.publish(s.client, s.clientFiles)
		s.publish(s.victim, s.victimF)
		time.Sleep(soakSettle)
	}
	s.bundle = append(bytes.Clone(s.bundle), next.PEM()...)
	all()
	s.ca = next
	s.clientFiles.Leaf, s.serverFiles.Leaf = next.Issue(s.t, proxytest.ID("client")), next.Issue(s.t, proxytest.ID("server"))
	s.victimF.Leaf = next.Issue(s.t, proxytest.ID("victim"))
	all()
	s.settle()
	s.bundle = next.PEM()
	all()
}

// usage is what the process holds at one moment.
type usage struct{ heap, goroutines, descriptors float64 }

func measure() usage {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	entries, _ := os.ReadDir("/proc/self/fd") // 0 where there is no /proc
	return usage{float64(m.HeapAlloc), float64(runtime.NumGoroutine()), float64(len(entries))}
}

// judgeUsage compares the first half of the samples with the second, which a leak of anything per request or per change
// would fill.
func judgeUsage(t *testing.T, samples []usage) {
	t.Helper()
	if len(samples) < 4 {
		t.Logf("too short to judge what accumulates: %d samples", len(samples))
		return
	}
	half := len(samples) / 2
	for _, what := range []struct {
		name  string
		value func(usage) float64
		slack float64
	}{
		{"heap bytes", func(u usage) float64 { return u.heap }, 4 << 20},
		{"goroutines", func(u usage) float64 { return u.goroutines }, 40},
		{"descriptors", func(u usage) float64 { return u.descriptors }, 40},
	} {
		first, second := mean(samples[:half], what.value), mean(samples[half:], what.value)
		t.Logf("%s: %.0f in the first half, %.0f in the second, %+.1f a round", what.name, first, second, (second-first)/float64(half))
		if second > first+what.slack {
			t.Errorf("%s grow from %.0f to %.0f", what.name, first, second)
		}
	}
}

func mean(samples []usage, value func(usage) float64) (sum float64) {
	for _, s := range samples {
		sum += value(s)
	}
	return sum / float64(len(samples))
}
