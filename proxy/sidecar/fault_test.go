package sidecar

import (
	"bytes"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestOutOfDescriptors starves a proxy of file descriptors: it waits between accepts instead of spinning, connections
// that are open do not notice, and it serves and renews again when there is room.
func TestOutOfDescriptors(t *testing.T) {
	slow(t)
	noLeaks(t)
	ca := testca.New(t, proxytest.TrustDomain)
	m := &mesh{ca: ca, serverFiles: workload(t, ca, "server")}
	dir := t.TempDir()
	m.serverFiles.Sealed(t).Publish(t, dir)
	c := startChild(t, dir, startApp(t, echo))
	c.awaitReady(t)
	config := m.tlsClient(ca.Issue(t, proxytest.ID("client")))
	open := func() (*tls.Conn, error) {
		raw, err := net.DialTimeout("tcp", c.Inbound, 5*time.Second)
		if err != nil {
			return nil, err
		}
		_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
		conn := tls.Client(raw, config)
		return conn, roundTrip(conn, "hello")
	}
	held, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	_, _ = c.get(c.Metrics, "/metrics")
	eventually(t, "the child is quiet", func() bool { n := c.descriptors(t); time.Sleep(100 * time.Millisecond); return n == c.descriptors(t) })
	before := c.descriptors(t)

	c.limit(t, 10)
	var idle []net.Conn
	t.Cleanup(func() {
		for _, c := range idle {
			c.Close()
		}
	})
	for range 60 {
		idle = append(idle, dial(t, c.Inbound))
	}
	eventually(t, "accept fails", func() bool { return c.logged("accept failed") > 0 })
	at := c.logged("accept failed")
	time.Sleep(time.Second)
	if n := c.logged("accept failed") - at; n > 12 {
		t.Errorf("accept failed %d times within a second: it spins", n)
	}
	if err := roundTrip(held, "during"); err != nil {
		t.Errorf("an open connection while descriptors are out: %v", err)
	}
	for _, c := range idle {
		c.Close()
	}
	c.awaitReady(t)
	eventually(t, "new connections are served again", func() bool {
		conn, err := open()
		if conn != nil {
			conn.Close()
		}
		return err == nil
	})
	if text, err := c.get(c.Metrics, "/metrics"); err != nil || strings.Contains(text, "\nmeshless_accept_errors_total 0\n") {
		t.Errorf("the failed accepts were not counted (%v)", err)
	}
	eventually(t, "descriptors are back", func() bool { return c.descriptors(t) <= before })

	m.serverFiles.Leaf = ca.Issue(t, proxytest.ID("server"))
	m.serverFiles.Sealed(t).Publish(t, dir)
	eventually(t, "the next generation is in use", func() bool {
		conn, err := open()
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Equal(m.serverFiles.Leaf.Leaf)
	})
	if err := roundTrip(held, "after"); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	if text := c.logs.String(); strings.Contains(text, "panic") || strings.Contains(text, "fatal error") {
		t.Errorf("the child's log:\n%s", text)
	}
}

// era is a generation with an authority of its own, so that a mixture of two cannot work.
type era struct {
	proxytest.Workload
	files  proxytest.Files
	client tls.Certificate
}

// swapping publishes one era after the other without a pause worth the name, and between them leaves directories as a
// kubelet that was killed would, half-written and never linked. Stop returns the era published last.
func swapping(t *testing.T, dir string, eras []era) (stop func() era) {
	t.Helper()
	var ended atomic.Bool
	var done sync.WaitGroup
	last := 0
	done.Go(func() {
		for i := 1; !ended.Load(); i++ {
			last = i % len(eras)
			eras[last].files.Publish(t, dir)
			torn := filepath.Join(dir, "..torn")
			if err := os.MkdirAll(torn, 0o755); err != nil {
				t.Error(err)
			}
			for name, content := range eras[(i+1)%len(eras)].files {
				if err := os.WriteFile(filepath.Join(torn, name), content[:rand.IntN(len(content))], 0o644); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(time.Duration(5+rand.IntN(25)) * time.Millisecond)
		}
	})
	stop = sync.OnceValue(func() era {
		ended.Store(true)
		done.Wait()
		return eras[last]
	})
	t.Cleanup(func() { stop() })
	return stop
}

// visit handshakes and says which era the server is of. What the server shows and whom it trusts must be of the same.
func visit(t *testing.T, addr string, eras []era) (which *era, err error) {
	t.Helper()
	raw, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{api.ALPN},
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			for i := range eras {
				if len(r.AcceptableCAs) == 1 && bytes.Equal(r.AcceptableCAs[0], eras[i].CA.Certificate.RawSubject) {
					which = &eras[i]
					return &which.client, nil
				}
			}
			t.Errorf("the server trusts %d authorities, want exactly one of ours", len(r.AcceptableCAs))
			return &tls.Certificate{}, nil
		}})
	if err := roundTrip(conn, "hello"); err != nil {
		return nil, err
	}
	if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(which.Leaf.Leaf) {
		t.Errorf("the server trusts one generation and shows the leaf of another, %s", got.SerialNumber)
	}
	return which, nil
}

// TestKillDuringReload kills the proxy at any moment while its files are swapped. Nothing is kept between two lives, so
// each begins with what is there: one generation, whole.
func TestKillDuringReload(t *testing.T) {
	noLeaks(t)
	eras := make([]era, 3)
	for i := range eras {
		ca := testca.New(t, proxytest.TrustDomain)
		w := workload(t, ca, "server")
		eras[i] = era{w, w.Sealed(t), ca.Issue(t, proxytest.ID("client"))}
	}
	dir, app := t.TempDir(), startApp(t, echo)
	eras[0].files.Publish(t, dir)
	stop := swapping(t, dir, eras)
	lives := 10
	if testing.Short() {
		lives = 3
	}
	served := func(c *child) func() bool {
		return func() bool { _, err := visit(t, c.Inbound, eras); return err == nil } // the next generation may cut it
	}
	for life := range lives {
		early := startChild(t, dir, app)
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
		early.kill()
		c := startChild(t, dir, app)
		c.awaitReady(t)
		eventually(t, "the child serves a whole generation", served(c))
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		c.kill()
		if text := early.logs.String() + c.logs.String(); strings.Contains(text, "panic") || strings.Contains(text, "fatal error") {
			t.Fatalf("life %d:\n%s", life, text)
		}
	}
	c := startChild(t, dir, app)
	last := stop()
	eventually(t, "the child serves the last generation", func() bool {
		now, err := visit(t, c.Inbound, eras)
		return err == nil && now.CA == last.CA
	})
}

// TestCorruptedReloads puts one broken file after the other into the directory of a proxy that serves: truncated, with
// a flipped bit, empty, huge. It keeps the last good generation, or takes one in which nothing that counts is
// different; it never logs a key.
func TestCorruptedReloads(t *testing.T) {
	noLeaks(t)
	m := startMesh(t, echo)
	good := m.serverFiles.Sealed(t)
	m.server.publish(t, good)
	leaf := m.server.source.Current().Leaf
	random := rand.New(rand.NewPCG(4, 4))
	cases := 0
	for name, content := range good {
		flipped := bytes.Clone(content)
		flipped[random.IntN(len(flipped))] ^= 1 << random.IntN(8)
		for what, broken := range map[string][]byte{
			"empty": {}, "half": append([]byte{}, content[:len(content)/2]...), "flipped": flipped, "twice": bytes.Repeat(content, 2),
			"zeros": make([]byte, len(content)), "huge": bytes.Repeat([]byte("x"), 2<<20), "binary": bytes.Repeat([]byte{0xff, 0}, 500),
		} {
			good.With(name, broken).Publish(t, m.server.dir)
			cases++
			if cases%7 != 0 { // most are not waited for: the next comes while the last is read
				time.Sleep(time.Duration(random.IntN(15)) * time.Millisecond)
				continue
			}
			if err := exchange(m.client.outboundAddr(), "hello"); err != nil {
				t.Errorf("%s of %s: the last good generation does not serve: %v", what, name, err)
			}
			if !m.server.source.Current().Leaf.Equal(leaf) {
				t.Errorf("%s of %s: another leaf is in use", what, name)
			}
		}
	}
	good.With("unknown", []byte("file")).Publish(t, m.server.dir)
	m.server.publish(t, m.serverFiles.Sealed(t))
	m.control(t)
	logs := strings.ReplaceAll(m.server.logs.String(), "AGE-SECRET-KEY-...", "")
	for _, secret := range []string{"AGE-SECRET-KEY", "PRIVATE KEY", strings.Split(string(testca.KeyPEM(t, m.serverFiles.Leaf)), "\n")[1][:20]} {
		if strings.Contains(strings.ReplaceAll(logs, "(PRIVATE KEY)", ""), secret) {
			t.Errorf("the log holds %.20s", secret)
		}
	}
	if !strings.Contains(logs, "generation refused") {
		t.Error("no generation was refused: this shows nothing")
	}
}
