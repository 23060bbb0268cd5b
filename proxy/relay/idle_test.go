//go:build linux

package relay_test

import (
	"io"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/proxy/relay"
)

// TestQuietSessionsStay: without an idle timeout nothing ends a session whose ends live. Sessions that have one are the
// clock.
func TestQuietSessionsStay(t *testing.T) {
	ts := newTunnels(t)
	secured := ts.open(t, 0)
	client, server, _, result := spliced(t, relay.Options{})
	for range 3 {
		ts.open(t, 150*time.Millisecond).wantEnds(t)
		_, _, _, over := spliced(t, relay.Options{Idle: 150 * time.Millisecond})
		if r := wait(t, over); r.Err != relay.ErrIdle {
			t.Errorf("a session with an idle timeout ended with %v", r.Err)
		}
	}
	select {
	case r := <-result:
		t.Errorf("a quiet session without TLS ended with %v", r.Err)
	case r := <-secured.ends:
		t.Errorf("a quiet session with TLS ended with %v", r.Err)
	default:
	}
	for _, way := range []struct {
		from io.Writer
		to   io.Reader
	}{{client, server}, {server, client}, {secured.near, secured.far}, {secured.far, secured.near}} {
		if _, err := way.from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way.to, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIdleSince: one byte counts at once, be it spliced or not.
func TestIdleSince(t *testing.T) {
	ts := newTunnels(t)
	secured := ts.open(t, 0)
	client, server, session, _ := spliced(t, relay.Options{})
	for name, s := range map[string]struct {
		session *relay.Session
		from    io.Writer
		to      io.Reader
	}{
		"without TLS":        {session, client, server},
		"without TLS, back":  {session, server, client},
		"with TLS":           {secured.ours, secured.near, secured.far},
		"with TLS, back":     {secured.ours, secured.far, secured.near},
		"with TLS, the peer": {secured.theirs, secured.near, secured.far},
	} {
		before := s.session.IdleSince()
		time.Sleep(20 * time.Millisecond) // more than the kernel's clock ticks
		if _, err := s.from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s.to, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		until(t, name+": the byte counts", func() bool { return s.session.IdleSince().After(before) })
		if s.session.IdleSince().After(time.Now()) {
			t.Errorf("%s: idle from a moment on that is to come", name)
		}
	}
}
