package sidecar

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/proxytest"
)

// footprint is what an attack must not leave behind.
type footprint struct {
	fds, goroutines int
	heap            uint64 // bytes that are reachable
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("descriptors are counted in /proc/self/fd, which this system does not have")
	}
	return len(entries)
}

func footprintOf(t testing.TB) footprint {
	t.Helper()
	heap := liveHeap()
	return footprint{openFiles(t), runtime.NumGoroutine(), heap}
}

// settled measures a mesh in which nothing happens, after it has been used once.
func (m *mesh) settled(t testing.TB) footprint {
	t.Helper()
	for range 3 {
		m.client.mustExchange(t, "warm")
	}
	m.client.scrape(t)
	m.server.scrape(t)
	eventually(t, "the mesh is idle", func() bool { return m.server.inbound.Active()+m.client.outbound.Active() == 0 })
	return footprintOf(t)
}

// heapSlack is what logs and counters of an attack may take.
const heapSlack = 4 << 20

// wantBack waits until descriptors, goroutines and memory are what they were, and the mesh serves.
func (m *mesh) wantBack(t testing.TB, before footprint) {
	t.Helper()
	var now footprint
	back := func() bool {
		now = footprintOf(t)
		logs := uint64(len(m.server.logs.String()) + len(m.client.logs.String()))
		return now.fds <= before.fds && now.goroutines <= before.goroutines && now.heap <= before.heap+heapSlack+3*logs
	}
	for deadline := time.Now().Add(20 * time.Second); !back(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("before the attack %+v, after it %+v", before, now)
		}
	}
	if active := m.server.inbound.Active() + m.client.outbound.Active(); active != 0 {
		t.Errorf("%d connections are still served", active)
	}
	m.control(t)
}

// counted is an app that counts who reaches it, and echoes.
func counted(reached *atomic.Int64) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		reached.Add(1)
		echo(c)
	}
}

// TestNothingReachesTheApp: an app is not even dialed for a client that is refused, although a client of TLS 1.3 has
// sent its first data by then.
func TestNothingReachesTheApp(t *testing.T) {
	noLeaks(t)
	var reached atomic.Int64
	m := startMesh(t, counted(&reached), func(m *meshmap.Map) {
		m.Inbound.Policy = []meshmap.Policy{{Workload: proxytest.ID("server"), Rules: []meshmap.Rule{{From: []string{proxytest.ID("client")}}}}}
	})
	before := m.settled(t)
	known := reached.Load()
	id, other := proxytest.ID("client"), proxytest.ID("other")
	stolen := m.ca.Issue(t, id)
	stolen.PrivateKey = m.ca.Issue(t, id).PrivateKey.(*ecdsa.PrivateKey)
	behind := m.ca.Issue(t, other)
	behind.Certificate = append(behind.Certificate, m.clientFiles.Leaf.Leaf.Raw)
	for name, c := range map[string]tls.Certificate{
		"right CA, wrong identity":       m.ca.Issue(t, other),
		"no extended usage":              m.ca.Issue(t, id, func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		"another's, without its key":     stolen,
		"the right one behind one's own": behind,
		"the authority itself":           {Certificate: [][]byte{m.ca.Certificate.Raw}, PrivateKey: stolen.PrivateKey},
		"no certificate":                 {},
	} {
		t.Run(name, func(t *testing.T) {
			for _, protocols := range [][]string{{api.ALPN}, nil} {
				config := m.tlsClient(tls.Certificate{})
				config.Certificates, config.NextProtos = nil, protocols
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
				if err := m.tlsExchange(t, config); err == nil {
					t.Error("the round trip succeeded")
				}
			}
		})
	}
	if got := reached.Load() - known; got != 0 {
		t.Errorf("the app was reached %d times", got)
	}
	m.wantBack(t, before)
}

// onceWriter passes the first write of a client on, its hello, and swallows the rest: a client that never sends its
// certificate.
type onceWriter struct {
	*net.TCPConn
	written bool
}

func (o *onceWriter) Write(p []byte) (int, error) {
	if o.written {
		return len(p), nil
	}
	o.written = true
	return o.TCPConn.Write(p)
}

// tinyRecords cuts every TLS record of handshakes that a client sends in plaintext into records of one byte, each a
// segment of its own.
type tinyRecords struct {
	*net.TCPConn
	done bool
}

func (r *tinyRecords) Write(p []byte) (int, error) {
	if r.done {
		return r.TCPConn.Write(p)
	}
	r.done = true // only the hello is in plaintext; the rest must stay whole
	if _, err := (dribble{r.TCPConn}).Write(inRecords(p, 1)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// inRecords cuts the payload of one record into records of n bytes.
func inRecords(record []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(record[5:], n) {
		out = append(append(out, record[:3]...), binary.BigEndian.AppendUint16(nil, uint16(len(part)))...)
		out = append(out, part...)
	}
	return out
}

// TestSlowloris: clients that are slower than the deadline hold nothing beyond it; a client that is only cut into
// pieces gets in.
func TestSlowloris(t *testing.T) {
	for name, mode := range map[string]func(*meshmap.Map){"Strict": func(*meshmap.Map) {}, "Permissive": permissive} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMesh(t, echo, mode)
			leaf := m.ca.Issue(t, proxytest.ID("client"))
			hello := clientHello(t, m.tlsClient(leaf))
			addr := m.server.inboundAddr().String()
			var wg sync.WaitGroup
			gone := func(what string, act func(c *net.TCPConn)) {
				c := dial(t, addr)
				wg.Go(func() {
					begun := time.Now()
					act(c)
					_, err := io.Copy(io.Discard, c)
					if took := time.Since(begun); took > 12*time.Second || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: was kept for %v (%v)", what, took, err)
					}
				})
			}
			for range 20 {
				gone("a byte per 100 ms", func(c *net.TCPConn) {
					for i := range hello {
						if _, err := c.Write(hello[i : i+1]); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				})
				gone("all but the last byte", func(c *net.TCPConn) { _, _ = c.Write(hello[:len(hello)-1]) })
				gone("no certificate, ever", func(c *net.TCPConn) {
					_ = tls.Client(&onceWriter{TCPConn: c}, m.tlsClient(leaf)).Handshake()
				})
			}
			for _, wrap := range []func(c *net.TCPConn) net.Conn{
				func(c *net.TCPConn) net.Conn { return dribble{c} },
				func(c *net.TCPConn) net.Conn { return &tinyRecords{TCPConn: c} },
			} {
				for _, certificates := range [][]tls.Certificate{{leaf}, nil} {
					config := m.tlsClient(leaf)
					config.Certificates = certificates
					conn := tls.Client(wrap(dial(t, addr)), config)
					if err := roundTrip(conn, "in pieces"); (err == nil) != (certificates != nil) {
						t.Errorf("a client in small pieces, with %d certificates: %v", len(certificates), err)
					}
					conn.Close()
				}
			}
			wg.Wait()
			eventually(t, "every slow client is gone", func() bool { return m.server.inbound.Active() == 0 })
			m.control(t)
		})
	}
}

// clientHello is the record that a client would send first.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		_ = tls.Client(client, config).Handshake()
		client.Close()
	}()
	header := make([]byte, 5)
	if _, err := io.ReadFull(server, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

// withExtension adds an extension in front of those of a hello (RFC 8446, section 4.1.2), and gives the handshake
// message without its record.
func withExtension(hello []byte, kind uint16, data []byte) []byte {
	message := bytes.Clone(hello[5:])
	at := 4 + 2 + 32
	at += 1 + int(message[at])                           // session id
	at += 2 + int(binary.BigEndian.Uint16(message[at:])) // cipher suites
	at += 1 + int(message[at])                           // compression
	size := int(binary.BigEndian.Uint16(message[at:])) + 4 + len(data)
	binary.BigEndian.PutUint16(message[at:], uint16(size))
	extension := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, kind), uint16(len(data)))
	message = slices.Insert(message, at+2, append(extension, data...)...)
	n := len(message) - 4
	message[1], message[2], message[3] = byte(n>>16), byte(n>>8), byte(n)
	return message
}

// inHandshakeRecords puts a handshake message into records of up to n bytes.
func inHandshakeRecords(message []byte, n int) []byte {
	return inRecords(append([]byte{22, 3, 1, 0, 0}, message...), n)
}

// garbage makes the beginning of a connection that no client of the mesh would send.
func garbage(t testing.TB, config *tls.Config, n int) []byte {
	t.Helper()
	random := mathrand.New(mathrand.NewPCG(4, uint64(n)))
	noise := make([]byte, 1+random.IntN(4000))
	_, _ = rand.Read(noise)
	hello := clientHello(t, config)
	switch n % 10 {
	case 0:
		return noise
	case 1: // a record of any type and version, with its length right
		return append([]byte{byte(20 + random.IntN(5)), 3, byte(random.IntN(5)), byte(len(noise) >> 8), byte(len(noise))}, noise...)
	case 2: // a length that no record has
		return append([]byte{22, 3, 1, 0xff, 0xff}, bytes.Repeat(noise, 1+(70<<10)/len(noise))...)
	case 3:
		return bytes.Repeat([]byte{21, 3, 3, 0, 2, byte(1 + random.IntN(2)), byte(random.IntN(120))}, 1+random.IntN(2000))
	case 4: // extensions of nearly 64 KiB
		return inHandshakeRecords(withExtension(hello, 0xfefe, make([]byte, 60000)), 16000)
	case 5: // and of more than a handshake message may have
		message := withExtension(hello, 0xfefe, make([]byte, 63000))
		message[1] = 0xff
		return append(inHandshakeRecords(message, 16000), bytes.Repeat(inHandshakeRecords(make([]byte, 16000), 16000), 20)...)
	case 6: // a good hello with random bytes in it
		for range 1 + random.IntN(20) {
			hello[5+random.IntN(len(hello)-5)] = byte(random.IntN(256))
		}
		return hello
	case 7: // a good hello, and then noise instead of a certificate
		return append(hello, noise...)
	case 8: // two hellos
		return append(hello, hello...)
	}
	return bytes.Repeat([]byte{22, 3, 1, 0, 0}, 1+random.IntN(5000)) // empty records
}

// TestGarbage: 200 connections of noise at once, to a Strict port, a Permissive one, and the app's own.
func TestGarbage(t *testing.T) {
	slow(t)
	noLeaks(t)
	for name, mode := range map[string]func(*meshmap.Map){"Strict": func(*meshmap.Map) {}, "Permissive": permissive} {
		t.Run(name, func(t *testing.T) {
			var reached atomic.Int64
			m := startMesh(t, counted(&reached), mode)
			before := m.settled(t)
			known := reached.Load()
			config := m.tlsClient(m.ca.Issue(t, proxytest.ID("client")))
			var wg sync.WaitGroup
			for i := range 200 {
				noise := garbage(t, config, i)
				wg.Go(func() {
					c, err := net.DialTimeout("tcp", m.server.inboundAddr().String(), 5*time.Second)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(15 * time.Second))
					go func() { _, _ = io.Copy(io.Discard, c) }()
					_, _ = c.Write(noise)
					time.Sleep(200 * time.Millisecond)
					_ = c.(*net.TCPConn).CloseWrite()
					time.Sleep(200 * time.Millisecond)
				})
			}
			wg.Wait()
			if got := reached.Load() - known; name == "Strict" && got != 0 {
				t.Errorf("the app was reached %d times", got)
			}
			m.wantBack(t, before)
		})
	}
}

// TestStuckReaders: peers that send or are sent to, and never read, cost a bounded amount of memory, and end at once
// when they are cut off.
func TestStuckReaders(t *testing.T) {
	slow(t)
	noLeaks(t)
	const n = 50
	for name, test := range map[string]struct {
		app   func(stop <-chan struct{}) func(*net.TCPConn)
		peers func(c net.Conn)
	}{
		"peer does not read": {
			func(<-chan struct{}) func(*net.TCPConn) {
				return func(c *net.TCPConn) { _, _ = io.Copy(c, zeros{}) }
			},
			func(net.Conn) {},
		},
		"app does not read": {
			func(stop <-chan struct{}) func(*net.TCPConn) { return func(*net.TCPConn) { <-stop } },
			func(c net.Conn) { _, _ = io.Copy(c, zeros{}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			var once sync.Once
			t.Cleanup(func() { once.Do(func() { close(stop) }) })
			m := startMesh(t, test.app(stop))
			eventually(t, "the mesh is ready", func() bool { return m.server.Ready() == nil && m.client.Ready() == nil })
			before := footprintOf(t)
			leaf := m.ca.Issue(t, proxytest.ID("client"))
			var peers sync.WaitGroup
			for range n {
				conn := tls.Client(dial(t, m.server.inboundAddr().String()), m.tlsClient(leaf))
				if err := conn.Handshake(); err != nil {
					t.Fatal(err)
				}
				peers.Go(func() { test.peers(conn) })
			}
			m.server.wantMetric(t, fmt.Sprintf(`meshless_connections_open{direction="inbound",security="mutual_tls"} %d`, n))
			m.stalled(t)
			if now := footprintOf(t); now.heap > before.heap+16<<20 { // the peers' own half is in this process, too
				t.Errorf("%d stuck connections take %d KiB of memory", n, (now.heap-before.heap)>>10)
			} else {
				t.Logf("%d stuck connections, both ends: %d KiB", n, (int64(now.heap)-int64(before.heap))>>10)
			}
			m.serverFiles.Mesh.RevokedKeys = []string{svid.KeyDigest(leaf.Leaf)}
			m.server.publish(t, m.serverFiles.Sealed(t))
			begun := time.Now()
			eventually(t, "the stuck connections are cut", func() bool { return m.server.inbound.Active() == 0 })
			t.Logf("cut within %v", time.Since(begun))
			peers.Wait()
			m.server.wantMetric(t, fmt.Sprintf(`meshless_connections_closed_total{direction="inbound",reason="no_longer_accepted",security="mutual_tls"} %d`, n))
			once.Do(func() { close(stop) })
		})
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// stalled waits until no more bytes move.
func (m *mesh) stalled(t *testing.T) {
	t.Helper()
	last := ""
	eventually(t, "every buffer is full", func() bool {
		time.Sleep(300 * time.Millisecond)
		var now string
		for line := range strings.Lines(m.server.scrape(t)) {
			if strings.HasPrefix(line, "meshless_sent_bytes_total") || strings.HasPrefix(line, "meshless_received_bytes_total") {
				now += line
			}
		}
		same := now == last
		last = now
		return same
	})
}
