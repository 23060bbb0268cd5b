package record

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"
)

// timed is a twin whose clock stands until it is set.
func timed(t *testing.T) (in *incoming, out *keys, now *time.Duration) {
	t.Helper()
	in, out = twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	now = new(time.Duration)
	in.now = func() time.Duration { return *now }
	in.updates.at, in.idle.at = 0, 0
	return in, out, now
}

// newKeysFor is a KeyUpdate that wants an answer.
func newKeysFor(t *testing.T, out *keys) []byte {
	t.Helper()
	r := out.seal(nil, []byte{keyUpdate, 0, 0, 1, 1}, typeHandshake)
	if err := out.update(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (k *keys) empty() []byte { return k.seal(nil, nil, typeApplicationData) }

// accepted is how many of next are taken, of at most n.
func accepted(in *incoming, n int, next func() []byte) int {
	for i := range n {
		if _, _, err := in.open(nil, next()); err != nil {
			return i
		}
	}
	return n
}

// TestRekeyOnceAnHour: a peer that rekeys on a quiet connection goes on for ever, as does one that sends an empty
// record each second. OpenSSL had a limit for the lifetime, and took it back (openssl/openssl#8068).
func TestRekeyOnceAnHour(t *testing.T) {
	in, out, now := timed(t)
	for range 1000 {
		*now += time.Hour
		if _, _, err := in.open(nil, newKeysFor(t, out)); err != nil {
			t.Fatalf("new keys after %s: %v", *now, err)
		}
	}
	for range 1000 {
		*now += time.Second
		if _, _, err := in.open(nil, out.empty()); err != nil {
			t.Fatalf("an empty record after %s: %v", *now, err)
		}
	}
}

// TestBudgetsOfTime: what may come at once, what time gives back, and that time saves up no more than that.
func TestBudgetsOfTime(t *testing.T) {
	for name, next := range map[string]func(*testing.T, *keys) []byte{
		"new keys": newKeysFor,
		"empty":    func(_ *testing.T, k *keys) []byte { return k.empty() },
		"canceled": func(_ *testing.T, k *keys) []byte { return k.seal(nil, []byte{1, byte(userCanceled)}, typeAlert) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, test := range []struct {
				waits []time.Duration // each before as many as are taken
				want  []int
			}{
				{waits: []time.Duration{0}, want: []int{16}},
				{waits: []time.Duration{time.Hour}, want: []int{16}},
				{waits: []time.Duration{100*time.Millisecond - 1}, want: []int{16}},
			} {
				in, out, now := timed(t)
				for i, wait := range test.waits {
					*now += wait
					if got := accepted(in, 100, func() []byte { return next(t, out) }); got != test.want[i] {
						t.Errorf("after %s %d were taken, want %d", wait, got, test.want[i])
					}
				}
			}
			// after the burst, one for each full tenth of a second, and no part of one is lost
			in, out, now := timed(t)
			if got := accepted(in, 16, func() []byte { return next(t, out) }); got != 16 {
				t.Fatalf("%d were taken at once", got)
			}
			for step, wait := range []time.Duration{100 * time.Millisecond, 150 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond} {
				*now += wait
				if _, _, err := in.open(nil, next(t, out)); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			*now += 100*time.Millisecond - 1
			if _, _, err := in.open(nil, next(t, out)); !isAlert(err, unexpectedMessage) {
				t.Errorf("one more: %v, want unexpected_message", err)
			}
		})
	}
}

func isAlert(err error, want tls.AlertError) bool {
	var local localError
	return errors.As(err, &local) && tls.AlertError(local) == want
}

// TestClockOfBudgets: it is the process's, and begins with the connection.
func TestClockOfBudgets(t *testing.T) {
	before := sinceStart()
	k, _ := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	in := newIncoming(k.keys, false)
	after := in.now()
	if before <= 0 || in.updates.at < before || in.idle.at < before || after < in.updates.at || after > before+time.Hour {
		t.Errorf("the clock is %s, then %s, and the budgets begin at %s and %s", before, after, in.updates.at, in.idle.at)
	}
}

// TestDataPaysForNewKeys: each MiB for one, and no more than a burst is saved up.
func TestDataPaysForNewKeys(t *testing.T) {
	in, out, _ := timed(t)
	update := func() []byte { return newKeysFor(t, out) }
	if got := accepted(in, 16, update); got != 16 {
		t.Fatalf("%d at once", got)
	}
	quarter := func(n int) {
		for range n * 16 {
			if _, _, err := in.open(nil, out.seal(nil, make([]byte, MaxPlaintext), typeApplicationData)); err != nil {
				t.Fatal(err)
			}
		}
	}
	quarter(3)
	if in.updates.left != 0 {
		t.Error("less than a MiB has paid")
	}
	quarter(1)
	if in.updates.left != 1 {
		t.Errorf("a MiB has paid for %d", in.updates.left)
	}
	quarter(4)
	if in.updates.left != 2 {
		t.Errorf("two MiB have paid for %d", in.updates.left)
	}
	quarter(4 * 20)
	if got := accepted(in, 100, update); got != burst {
		t.Errorf("22 MiB have paid for %d at once, want %d", got, burst)
	}
}

// TestStormOfRequests: a JDK asks for new keys at each record that arrives after its limit, until our answer arrives
// (JDK-8329548). All that we have on the way may bring such a request, before and after our answer, which is one.
func TestStormOfRequests(t *testing.T) {
	in, out, _ := timed(t)
	_, ourKeys := twin(t, tls.TLS_AES_128_GCM_SHA256, false)
	c := &Conn{in: *in, out: ourKeys, renewAt: maxRecords}
	c.in.now = in.now
	seal := func() []byte {
		wire, err := c.Seal(nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	plain := len(seal())
	for range 499 {
		seal()
	}
	answers := 0
	for i := range 500 {
		if _, _, err := c.Open(nil, newKeysFor(t, out)); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if i%100 == 50 {
			for range 2 {
				if len(seal()) > plain {
					answers++
				}
			}
		}
	}
	if answers != 5 {
		t.Errorf("500 requests, in five lots, got %d answers", answers)
	}
	if got := accepted(&c.in, 1000, func() []byte { return newKeysFor(t, out) }); got != 10+burst {
		t.Errorf("then %d more were taken, want those of the ten records of the answers, and a burst of %d", got, burst)
	}
}

// TestStormIsBounded: a peer that has taken much from us may not send as many updates at once.
func TestStormIsBounded(t *testing.T) {
	in, out, _ := timed(t)
	in.updates.left = maxUnanswered - 1
	c := &Conn{in: *in, out: out, renewAt: maxRecords}
	for range 3 {
		if _, err := c.Seal(nil, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if c.in.updates.left != maxUnanswered || maxUnanswered != 4096 {
		t.Errorf("%d updates are paid for, want %d", c.in.updates.left, maxUnanswered)
	}
	c.in.paid(bytesPerUpdate)
	if c.in.updates.left != maxUnanswered {
		t.Errorf("data has taken some of what records have paid for: %d are left", c.in.updates.left)
	}
}

// TestEndAfterIdleRecords: as many empty records as may be, and then close_notify: an orderly end. It is no record that
// does nothing.
func TestEndAfterIdleRecords(t *testing.T) {
	in, out, _ := timed(t)
	var stream []byte
	for range burst {
		stream = append(stream, out.empty()...)
	}
	stream = out.seal(stream, []byte{1, byte(closeNotify)}, typeAlert)
	if _, _, err := in.open(nil, stream); err != io.EOF {
		t.Errorf("got %v, want an orderly end", err)
	}
}

// TestDataEndsIdleness: idle records are counted between data.
func TestDataEndsIdleness(t *testing.T) {
	in, out, _ := timed(t)
	for range 3 {
		if got := accepted(in, burst, out.empty); got != burst {
			t.Fatalf("%d empty records were taken", got)
		}
		if _, _, err := in.open(nil, out.seal(nil, []byte("x"), typeApplicationData)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEmptyAlert: RFC 8446, section 5.4: a record without content of a type that must have some is unexpected.
func TestEmptyAlert(t *testing.T) {
	in, out, _ := timed(t)
	if _, _, err := in.open(nil, out.seal(nil, nil, typeAlert)); !isAlert(err, unexpectedMessage) {
		t.Errorf("got %v, want unexpected_message", err)
	}
}

// TestSecretsServeOnce: New takes the secrets away, so that nothing else holds them, and clears what it derives.
func TestSecretsServeOnce(t *testing.T) {
	secrets := &Secrets{client: bytes.Repeat([]byte{1}, 32), server: bytes.Repeat([]byte{2}, 32)}
	state := tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	c, err := New(state, true, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if secrets.client != nil || secrets.server != nil {
		t.Error("the secrets can still be read where they were")
	}
	if _, err := New(state, true, secrets); err == nil {
		t.Error("the secrets of one handshake serve a second connection")
	}
	first := c.out.secret
	if err := c.out.update(); err != nil || !bytes.Equal(first, make([]byte, 32)) {
		t.Errorf("the secret of the keys before is still there (%v)", err)
	}
}

// BenchmarkUpdates is what a peer's KeyUpdates cost, each with its record.
func BenchmarkUpdates(b *testing.B) {
	s := suites[tls.TLS_AES_256_GCM_SHA384]
	secret := bytes.Repeat([]byte{7}, s.hash().Size())
	out, err := newKeys(s, bytes.Clone(secret))
	if err != nil {
		b.Fatal(err)
	}
	var stream []byte
	const n = 1000
	for range n {
		stream = out.seal(stream, []byte{keyUpdate, 0, 0, 1, 1}, typeHandshake)
		if err := out.update(); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		k, err := newKeys(s, bytes.Clone(secret))
		if err != nil {
			b.Fatal(err)
		}
		in := newIncoming(k, false)
		in.updates.left = n
		if _, used, err := in.open(nil, stream); err != nil || used != len(stream) {
			b.Fatal(used, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/update")
}
