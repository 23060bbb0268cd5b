package record_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/record"
	"github.com/meshless-dev/meshless/test/testca"
)

// session is a connection between crypto/tls on one side and ours on the other.
type session struct {
	theirs *tls.Conn
	ours   *record.Conn
	tcp    *net.TCPConn // below ours
	peer   *net.TCPConn // below theirs
}

// handshake makes one, with ours as the client or as the server.
func handshake(t testing.TB, isClient bool) *session {
	t.Helper()
	s := new(session)
	s.tcp, s.peer = pair(t)
	ca := testca.New(t, "cluster.local")
	server := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{ca.Issue(t, "spiffe://cluster.local/ns/prod/deployment/web")}}
	// what is tested comes behind the handshake
	client := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	secrets := new(record.Secrets)
	var conn *tls.Conn
	if isClient {
		client.KeyLogWriter = secrets
		conn, s.theirs = tls.Client(s.tcp, client), tls.Server(s.peer, server)
	} else {
		server.KeyLogWriter = secrets
		conn, s.theirs = tls.Server(s.tcp, server), tls.Client(s.peer, client)
	}
	done := make(chan error, 1)
	go func() { done <- s.theirs.Handshake() }()
	if err := errors.Join(conn.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.ours, err = record.New(conn.ConnectionState(), isClient, secrets); err != nil {
		t.Fatal(err)
	}
	return s
}

func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{x, y} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// write sends what ours seals.
func (s *session) write(plaintext []byte) error {
	out, err := s.ours.Seal(make([]byte, 0, record.SealedLen(len(plaintext))), plaintext)
	if err != nil {
		return err
	}
	_, err = s.tcp.Write(out)
	return err
}

func (s *session) closeWrite() error {
	_, err := s.tcp.Write(s.ours.CloseNotify(nil))
	return err
}

// readAll opens what arrives until its end, reading in pieces of size, as a network delivers them.
func (s *session) readAll(size int) (data []byte, err error) {
	var in []byte
	for {
		piece := make([]byte, size)
		n, readErr := s.tcp.Read(piece)
		in = append(in, piece[:n]...)
		opened, used, err := s.ours.Open(make([]byte, 0, len(in)), in)
		data, in = append(data, opened...), in[used:]
		if err != nil {
			return data, err
		}
		if readErr != nil {
			return data, readErr
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// roles runs a test with ours as the server and as the client.
func roles(t *testing.T, test func(*testing.T, *session)) {
	t.Run("server", func(t *testing.T) { test(t, handshake(t, false)) })
	t.Run("client", func(t *testing.T) { test(t, handshake(t, true)) })
}

func TestWhatTheyWriteIsOpened(t *testing.T) {
	roles(t, func(t *testing.T, s *session) {
		sent := random(300_000)
		go func() {
			_, _ = s.theirs.Write(sent[:1])
			_, _ = s.theirs.Write(sent[1:])
			_ = s.theirs.Close()
		}()
		got, err := s.readAll(7001)
		if err != io.EOF || !bytes.Equal(got, sent) {
			t.Errorf("got %d of %d bytes, %v", len(got), len(sent), err)
		}
	})
}

func TestWhatWeWriteIsRead(t *testing.T) {
	roles(t, func(t *testing.T, s *session) {
		sent := random(300_000)
		original := bytes.Clone(sent)
		go func() {
			for at := 0; at < len(sent); {
				n := min(len(sent)-at, 1+at*3) // short ones, and such of several records
				if err := s.write(sent[at : at+n]); err != nil {
					t.Error(err)
				}
				at += n
			}
			if err := s.closeWrite(); err != nil {
				t.Error(err)
			}
		}()
		got, err := io.ReadAll(s.theirs)
		if err != nil || !bytes.Equal(got, original) {
			t.Errorf("got %d of %d bytes, %v", len(got), len(sent), err)
		}
		if !bytes.Equal(sent, original) {
			t.Error("writing changed the plaintext, or what lies behind it")
		}
	})
}

// TestSealedLen: sealing never outgrows what SealedLen tells.
func TestSealedLen(t *testing.T) {
	s := handshake(t, false)
	for _, n := range []int{1, record.MaxPlaintext - 1, record.MaxPlaintext, record.MaxPlaintext + 1, 5 * record.MaxPlaintext} {
		room := record.SealedLen(n)
		if out, err := s.ours.Seal(make([]byte, 0, room), random(n)); err != nil || cap(out) != room {
			t.Errorf("%d bytes do not fit into %d: %v", n, room, err)
		}
	}
}

func TestHalfClose(t *testing.T) {
	roles(t, func(t *testing.T, s *session) {
		if err := s.closeWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.theirs.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("they see %v, want an orderly end", err)
		}
		if err := s.write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("writing behind the end: %v", err)
		}
		go func() {
			_, _ = s.theirs.Write([]byte("still open"))
			_ = s.theirs.CloseWrite()
		}()
		if got, err := s.readAll(1000); err != io.EOF || string(got) != "still open" {
			t.Errorf("got %q, %v", got, err)
		}
		if more := s.ours.CloseNotify(nil); len(more) > 0 {
			t.Error("the end is told twice")
		}
	})
}

// TestTheirAlert: what the peer says when it refuses us is an error with its words, and no end.
func TestTheirAlert(t *testing.T) {
	s := handshake(t, false)
	go func() { // a record that does not authenticate makes crypto/tls send an alert
		_, _ = s.tcp.Write(append([]byte{23, 3, 3, 0, 17}, make([]byte, 17)...))
		_, _ = s.theirs.Read(make([]byte, 1))
	}()
	_, err := s.readAll(1000)
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" || !errors.Is(err, tls.AlertError(20)) {
		t.Errorf("got %v", err)
	}
}

// TestOurAlert: a peer learns why its record is refused.
func TestOurAlert(t *testing.T) {
	s := handshake(t, false)
	_, _, err := s.ours.Open(nil, append([]byte{23, 3, 3, 0, 17}, make([]byte, 17)...))
	if !errors.Is(err, tls.AlertError(20)) {
		t.Fatalf("got %v", err)
	}
	_, _ = s.tcp.Write(s.ours.Alert(nil, err))
	if _, got := s.theirs.Read(make([]byte, 1)); got == nil || got.Error() != "remote error: tls: bad record MAC" {
		t.Errorf("the peer learns %v", got)
	}
	if more := s.ours.Alert(nil, io.ErrUnexpectedEOF); len(more) > 0 {
		t.Error("an error that is not the peer's is told to it")
	}
}

// TestNewRefuses: without a finished handshake of TLS 1.3 and its secrets there are no records.
func TestNewRefuses(t *testing.T) {
	good := tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	secrets := func(lines ...string) *record.Secrets {
		s := new(record.Secrets)
		for _, l := range lines {
			if _, err := s.Write([]byte(l)); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	client := "CLIENT_TRAFFIC_SECRET_0 00 1111111111111111111111111111111111111111111111111111111111111111\n"
	server := "SERVER_TRAFFIC_SECRET_0 00 2222222222222222222222222222222222222222222222222222222222222222\n"
	old, unfinished, wide := good, good, good
	old.Version, unfinished.HandshakeComplete, wide.CipherSuite = tls.VersionTLS12, false, tls.TLS_AES_256_GCM_SHA384
	for name, test := range map[string]struct {
		state   tls.ConnectionState
		secrets *record.Secrets
	}{
		"TLS 1.2":            {old, secrets(client, server)},
		"unfinished":         {unfinished, secrets(client, server)},
		"no secrets":         {good, secrets()},
		"one secret":         {good, secrets(client)},
		"secrets of a suite": {wide, secrets(client, server)},
		"handshake secrets":  {good, secrets("CLIENT_HANDSHAKE_TRAFFIC_SECRET 00 11\n", server)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := record.New(test.state, true, test.secrets); err == nil {
				t.Error("accepted")
			}
		})
	}
	if _, err := record.New(good, true, secrets(client, server)); err != nil {
		t.Errorf("the control: %v", err)
	}
	for _, line := range []string{"", "CLIENT_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0 00 xx\n"} {
		if _, err := new(record.Secrets).Write([]byte(line)); err == nil {
			t.Errorf("%q was taken for a line of secrets", line)
		}
	}
}
