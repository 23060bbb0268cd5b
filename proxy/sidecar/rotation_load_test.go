package sidecar

import (
	"bytes"
	"context"
	"crypto/rand"
	"flag"
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

// soak is 30 minutes with make soak.
var soak = flag.Duration("soak", 8*time.Second, "how long TestRotationUnderLoad loads the proxies")

const (
	victimIP = "127.0.0.15"
	// from one change to the next: what was opened before a change has ended by the one after
	settleTime = 500 * time.Millisecond
)

// rotation is a client that must never fail and a victim to whom things happen, both of the same server.
type rotation struct {
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
func (s *rotation) settle() {
	s.busy.Lock()
	defer s.busy.Unlock()
}

// TestRotationUnderLoad loads the proxies while everything that can change does: leaves, keys, authorities,
// revocations, policy, and files that are no good. A request that should succeed succeeds, a peer that is shut out
// stays out, and nothing accumulates.
func TestRotationUnderLoad(t *testing.T) {
	slow(t)
	noLeaks(t)
	s := &rotation{mesh: startMesh(t, echo), t: t}
	s.bundle = s.ca.PEM()
	s.victimF = workload(t, s.ca, "victim", withServer("server"))
	s.victim = startPod(t, victimIP, netip.MustParseAddrPort(victimIP+":1"), s.victimF.Sealed(t))
	s.victim.dials(s.server.inboundAddr())
	for _, p := range []*pod{s.client, s.server, s.victim} {
		p.level.Set(slog.LevelError) // the log is kept in memory here, and would be what grows
	}
	ctx, cancel := context.WithTimeout(t.Context(), *soak)
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
	began := time.Now()
	rounds := 0
	for ; ctx.Err() == nil; rounds++ {
		for _, step := range []func(){s.renewClient, s.renewServer, s.revokeVictim, s.denyVictim, s.breakFiles, s.rollAuthority} {
			step()
		}
		samples = append(samples, measure(began))
	}
	load.Wait()
	t.Logf("%d requests and %d rounds of changes in %s", s.served.Load(), rounds, *soak)
	checkUsage(t, samples)
}

func (s *rotation) short() error {
	s.served.Add(1)
	return exchange(s.client.outboundAddr(), "a short request")
}

// long keeps a connection for some hundred milliseconds, across changes.
func (s *rotation) long() error {
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

func (s *rotation) large() error {
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

func (s *rotation) publish(p *pod, w proxytest.Workload) {
	p.publish(s.t, w.Sealed(s.t).With(api.BundleFile, s.bundle))
}

func (s *rotation) renewClient() {
	s.clientFiles.Leaf = s.ca.Issue(s.t, proxytest.ID("client"))
	s.publish(s.client, s.clientFiles)
	time.Sleep(settleTime)
}

func (s *rotation) renewServer() {
	s.serverFiles.Leaf = s.ca.Issue(s.t, proxytest.ID("server"))
	s.publish(s.server, s.serverFiles)
	time.Sleep(settleTime)
}

// revokeVictim takes the victim's key away while it holds a connection, then gives it a new one.
func (s *rotation) revokeVictim() {
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
	time.Sleep(settleTime)
}

// denyVictim lets the client alone in, then everyone again.
func (s *rotation) denyVictim() {
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
	time.Sleep(settleTime)
}

// shutOut expects that the victim's open connection ends and that it gets no new one.
func (s *rotation) shutOut(what string, held net.Conn) {
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
func (s *rotation) breakFiles() {
	before := s.server.generation()
	other := s.serverFiles
	other.Leaf = s.victimF.Leaf
	other.Sealed(s.t).With(api.BundleFile, s.bundle).Publish(s.t, s.server.dir)
	eventually(s.t, "the server notices bad files", func() bool { return s.server.identity.Failure() != nil })
	if s.server.generation() != before {
		s.t.Error("bad files are in use")
	}
	s.publish(s.server, s.serverFiles)
	time.Sleep(settleTime)
}

// rollAuthority changes the authority as the function does: published everywhere, then signing, then dropped.
func (s *rotation) rollAuthority() {
	next := testca.New(s.t, proxytest.TrustDomain)
	all := func() {
		s.publish(s.server, s.serverFiles)
		s.publish(s.client, s.clientFiles)
		s.publish(s.victim, s.victimF)
		time.Sleep(settleTime)
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
type usage struct{ minutes, heap, goroutines, descriptors float64 }

func measure(began time.Time) usage {
	entries, _ := os.ReadDir("/proc/self/fd") // 0 where there is no /proc
	return usage{time.Since(began).Minutes(), float64(liveHeap()), float64(runtime.NumGoroutine()), float64(len(entries))}
}

// checkUsage wants no slope: what a leak of anything per request or per change would leave shows as growth over the
// whole test. The slack is what one sample may differ from another.
func checkUsage(t *testing.T, samples []usage) {
	t.Helper()
	if len(samples) < 4 {
		t.Logf("too short to tell what accumulates: %d samples", len(samples))
		return
	}
	samples = samples[1:] // the first round makes what is made once
	minutes := samples[len(samples)-1].minutes - samples[0].minutes
	for _, what := range []struct {
		name  string
		value func(usage) float64
		slack float64
	}{
		{"heap bytes", func(u usage) float64 { return u.heap }, 4 << 20},
		{"goroutines", func(u usage) float64 { return u.goroutines }, 40},
		{"descriptors", func(u usage) float64 { return u.descriptors }, 40},
	} {
		perMinute := slope(samples, what.value)
		t.Logf("%s: %.0f at the beginning, %.0f at the end, slope %+.2f a minute", what.name, what.value(samples[0]), what.value(samples[len(samples)-1]), perMinute)
		if grown := perMinute * minutes; grown > what.slack {
			t.Errorf("%s grow by %.2f a minute, %.0f in all", what.name, perMinute, grown)
		}
	}
}

// slope is the growth of a value per minute, by least squares.
func slope(samples []usage, value func(usage) float64) float64 {
	var x, y float64
	for _, s := range samples {
		x += s.minutes / float64(len(samples))
		y += value(s) / float64(len(samples))
	}
	var covariance, variance float64
	for _, s := range samples {
		covariance += (s.minutes - x) * (value(s) - y)
		variance += (s.minutes - x) * (s.minutes - x)
	}
	return covariance / variance
}
