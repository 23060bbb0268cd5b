//go:build linux

package relay_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// hostilePeer is a client of TLS 1.3 with AES-128-GCM that says what crypto/tls would not, behind the handshake.
type hostilePeer struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	number uint64
}

func (p *hostilePeer) Write(line []byte) (int, error) {
	if words := bytes.Fields(line); string(words[0]) == "CLIENT_TRAFFIC_SECRET_0" {
		p.secret, _ = hex.DecodeString(string(words[2]))
		p.install()
	}
	return len(line), nil
}

func (p *hostilePeer) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len(label)))
	out, _ := hkdf.Expand(sha256.New, p.secret, string(append(append(info, label...), 0)), n)
	return out
}

func (p *hostilePeer) install() {
	block, _ := aes.NewCipher(p.expand("key", 16))
	p.aead, _ = cipher.NewGCM(block)
	p.iv, p.number = p.expand("iv", 12), 0
}

func (p *hostilePeer) record(out, content []byte, kind byte) []byte {
	nonce := bytes.Clone(p.iv)
	for i := range 8 {
		nonce[11-i] ^= byte(p.number >> (8 * i))
	}
	p.number++
	n := len(content) + 1 + 16
	header := []byte{23, 3, 3, byte(n >> 8), byte(n)}
	return p.aead.Seal(append(out, header...), nonce, append(bytes.Clone(content), kind), header)
}

func (p *hostilePeer) newKeys(out []byte) []byte {
	out = p.record(out, []byte{24, 0, 0, 1, 0}, 22)
	p.secret = p.expand("traffic upd", 32)
	p.install()
	return out
}

// hostileServe is a session of a client's connection; the handshake of the client is the caller's.
func hostileServe(t testing.TB, ts *tunnels) (wire, app *net.TCPConn, begin func() *relay.Session) {
	t.Helper()
	wire, b := pair(t)
	a, app := pair(t)
	_ = app.SetDeadline(time.Now().Add(60 * time.Second))
	return wire, app, func() *relay.Session {
		config := ts.server.Clone()
		server, _, err := relay.Secure(relay.NewRaw(b, nil), relay.Server, config, time.Now().Add(10*time.Second))
		if err != nil {
			t.Error(err)
			return nil
		}
		s := relay.New(server, relay.Plain(a), relay.Options{})
		s.Start(ts.engine, func(relay.Result) {})
		return s
	}
}

// latencies are those of an honest client's round trips.
func hostileLatencies(t *testing.T, ts *tunnels, n int) []time.Duration {
	t.Helper()
	wire, app, begin := hostileServe(t, ts)
	defer wire.Close()
	go begin()
	go func() { _, _ = io.Copy(app, app) }()
	c := tls.Client(wire, ts.client)
	var took []time.Duration
	for range n {
		began := time.Now()
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}

// TestNewKeysStarveOthers: clients that change their keys at nearly every record cost a loop 30 ms for each buffer, and
// whoever is in the same loop waits for all of them.
func TestNewKeysStarveOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	ts := newTunnels(t)
	quiet := hostileLatencies(t, ts, 200)
	const attackers = 24
	var ready, all sync.WaitGroup
	var apps []*net.TCPConn
	var delivered atomic.Int64
	start := make(chan struct{})
	for range attackers {
		wire, app, begin := hostileServe(t, ts)
		go begin()
		ready.Add(1)
		all.Go(func() {
			config := ts.client.Clone()
			peer := new(hostilePeer)
			config.KeyLogWriter = peer
			conn := tls.Client(wire, config)
			if err := conn.Handshake(); err != nil || conn.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
				t.Error("handshake:", err)
				ready.Done()
				return
			}
			var stream []byte
			for len(stream) < 1<<20 {
				for range 15 {
					stream = peer.newKeys(stream)
				}
				stream = peer.record(stream, []byte("x"), 23)
			}
			ready.Done()
			<-start
			go func() { _, _ = wire.Write(stream) }()
			n, _ := io.Copy(io.Discard, app)
			delivered.Add(n)
		})
		apps = append(apps, app)
		defer wire.Close()
		defer app.Close()
	}
	ready.Wait()
	close(start)
	time.Sleep(20 * time.Millisecond)
	attacked := hostileLatencies(t, ts, 6)
	began := time.Now()
	for _, app := range apps {
		_ = app.SetReadDeadline(time.Now().Add(4 * time.Second))
	}
	all.Wait()
	t.Logf("%d bytes of the attackers were delivered, %s after", delivered.Load(), time.Since(began))
	t.Logf("an honest round trip: %s in the middle of 200, then of 6 with %d MiB of an attack under way: %v", quiet[len(quiet)/2], attackers, attacked)
	if n := delivered.Load(); n > attackers*16 {
		t.Errorf("%d bytes were delivered, with 15 updates of the keys for each: the first few updates that no data pays for should end such a connection", n)
	}
}
