package record_test

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/record"
	"github.com/meshless-dev/meshless/test/tlspeer"
)

var (
	sequences = flag.Int("sequences", 3000, "how many random sequences of records are tried")
	firstSeed = flag.Uint64("seed", 0, "seed of the first of them; 0: any")
)

// TestSequences: peers that pad, fragment, rekey, stay idle and break the rules, each at random. What is delivered, how
// it ends and what the peer is told is what a model says. A failure names the seed, which FuzzSequence takes.
func TestSequences(t *testing.T) {
	base := cmp.Or(*firstSeed, uint64(time.Now().UnixNano()))
	t.Logf("seeds from %d on", base)
	n := uint64(*sequences)
	if testing.Short() {
		n /= 4
	}
	endings := map[string]bool{}
	for seed := base; seed < base+n; seed++ {
		endings[trySequence(t, seed)] = true
		if t.Failed() {
			return
		}
	}
	if len(endings) < 40 && n >= 700 {
		t.Errorf("the sequences ended in %d ways alone: %v", len(endings), endings)
	}
}

func FuzzSequence(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { trySequence(t, seed) })
}

// talk is one sequence under way.
type talk struct {
	*rand.Rand
	ours *record.Conn
	peer *tlspeer.Peer
	owed bool // new keys, by us
}

var cipherSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

func newTalk(t *testing.T, r *rand.Rand, isClient bool) *talk {
	suite := cipherSuites[r.IntN(len(cipherSuites))]
	size := 32
	if suite == tls.TLS_AES_256_GCM_SHA384 {
		size = 48
	}
	told, secrets := &tlspeer.Secrets{Client: random(size), Server: random(size)}, new(record.Secrets)
	for line := range bytes.Lines([]byte(told.Lines())) {
		if _, err := secrets.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	ours, err := record.New(tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: suite}, isClient, secrets)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := tlspeer.New(suite, told, !isClient)
	if err != nil {
		t.Fatal(err)
	}
	return &talk{Rand: r, ours: ours, peer: peer}
}

// trySequence returns how the sequence ended.
func trySequence(t *testing.T, seed uint64) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	isClient := r.IntN(2) == 0
	k := newTalk(t, r, isClient)
	var now time.Duration
	k.ours.SetClock(func() time.Duration { return now })
	s := tlspeer.Random(seed, k.peer.Out, tlspeer.Options{ToClient: isClient, Pauses: true, Steps: 40})
	check := func(err error, step string) {
		if err != nil {
			t.Fatalf("seed %d, at %q: %v\n%s", seed, step, err, s)
		}
	}
	for i, step := range s.Steps {
		now += step.Pause
		got, err := k.open(step.Wire)
		if i == len(s.Steps)-1 {
			check(k.wantEnd(err, s.End), step.Name)
			break
		}
		check(err, step.Name)
		if !bytes.Equal(got, step.Data) {
			check(fmt.Errorf("%d bytes were delivered, want %d", len(got), len(step.Data)), step.Name)
		}
		k.owed = k.owed || step.Requests
		if r.IntN(3) == 0 {
			check(k.answer(), step.Name)
		}
	}
	return s.Last
}

// open opens what arrives, in pieces of any size.
func (k *talk) open(wire []byte) (data []byte, err error) {
	var pending []byte
	for len(wire) > 0 {
		n := len(wire)
		if k.IntN(2) == 0 {
			n = 1 + k.IntN(n)
		}
		pending, wire = append(pending, wire[:n]...), wire[n:]
		before := random(k.IntN(4))
		room := append(make([]byte, 0, len(before)+len(pending)), before...)
		out, used, err := k.ours.Open(room, pending)
		if !bytes.HasPrefix(out, before) || cap(out) != cap(room) {
			return nil, errors.New("what stood in the buffer before was not kept, or the buffer grew")
		}
		data, pending = append(data, out[len(before):]...), pending[used:]
		if err != nil {
			return data, err
		}
		if missing := record.Missing(pending); len(pending) > 0 && missing == 0 {
			return data, errors.New("a whole record was left")
		}
	}
	if len(pending) > 0 {
		return data, fmt.Errorf("%d bytes were left", len(pending))
	}
	return data, nil
}

// answer seals some data, which the peer must read: behind one KeyUpdate, if it has asked for new keys, and behind none
// otherwise.
func (k *talk) answer() error {
	plain := random(1 + k.IntN(1<<k.IntN(16)))
	original := bytes.Clone(plain)
	if k.IntN(2) == 0 {
		plain = plain[:len(plain):len(plain)]
	}
	room := make([]byte, 0, record.SealedLen(len(plain)))
	wire, err := k.ours.Seal(room, plain)
	if err != nil {
		return err
	}
	if cap(wire) != cap(room) || !bytes.Equal(plain, original) {
		return errors.New("sealing grew the buffer, or changed the plaintext")
	}
	if k.owed {
		kind, content, rest, err := k.peer.In.Open(wire)
		if err != nil || kind != tlspeer.Handshake || !bytes.Equal(content, []byte{tlspeer.KeyUpdate, 0, 0, 1, 0}) {
			return fmt.Errorf("the request for new keys is answered by type %d, % x, %w", kind, content, err)
		}
		k.peer.In.Update()
		wire, k.owed = rest, false
	}
	for records := 0; len(wire) > 0; records++ {
		kind, content, rest, err := k.peer.In.Open(wire)
		if err != nil || kind != tlspeer.Data || !bytes.HasPrefix(original, content) || len(content) > record.MaxPlaintext {
			return fmt.Errorf("record %d of an answer is of type %d with %d bytes: %w", records, kind, len(content), err)
		}
		original, wire = original[len(content):], rest
	}
	if len(original) > 0 {
		return fmt.Errorf("%d bytes of an answer are missing", len(original))
	}
	return nil
}

// wantEnd compares an error of Open, and what the peer is told then, with what the model says.
func (k *talk) wantEnd(err error, want tlspeer.End) error {
	var op *net.OpError
	told := k.ours.Alert(nil, err)
	switch {
	case want.Orderly && err == io.EOF && len(told) == 0:
		told = k.ours.CloseNotify(nil)
	case want.Remote > 0 && errors.As(err, &op) && op.Op == "remote error" && op.Err == tls.AlertError(want.Remote) && len(told) == 0:
		return nil
	case want.Local > 0 && errors.As(err, &op) && op.Op == "local error" && op.Err == tls.AlertError(want.Local):
	default:
		return fmt.Errorf("got %v, and %d bytes for the peer, want %s", err, len(told), want)
	}
	level := byte(2)
	if want.Orderly {
		level = 1
	}
	kind, content, rest, err := k.peer.In.Open(told)
	if err != nil || kind != tlspeer.Alert || !bytes.Equal(content, []byte{level, want.Local}) || len(rest) > 0 {
		return fmt.Errorf("the peer is told type %d, % x, %w, want %s", kind, content, err, want)
	}
	if _, err := k.ours.Seal(nil, []byte("x")); !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("sealing behind the end: %w", err)
	}
	return nil
}
