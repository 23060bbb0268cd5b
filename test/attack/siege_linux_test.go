package attack

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/test/testca"
)

// Bounds of one attack. The pace and the total let it last for as long as an honest member has patience.
const (
	opening   = 5 * time.Second // how long connections are opened as fast as the machine can
	attackers = 3               // identities
	atOnce    = 64              // handshakes under way, of all attackers
	pace      = 3000            // connections a second that follow others
	total     = 100_000         // connections
)

// raid is what the attackers' process is told.
type raid struct {
	Pattern, Target string
	Connections     int
	Members         [][2][]byte // certificate and key of each identity, in PEM
}

// booty is what it tells: when the first connection has been tried, when all have been, and when it has ended.
type booty struct {
	Tried, Opened int64
	Error         string // of the last connection that failed
}

// siege is an attack under way. The attackers have a process of their own: thousands of them would leave an honest
// member in the same one no turn.
type siege struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *json.Decoder
	log   *tail
}

// begin starts an attack, and returns when the first connection has been tried. The attackers say when all have been,
// or after a while. Whoever holds one goes on until end.
func (b *besieged) begin(t *testing.T, p pattern, connections int) *siege {
	t.Helper()
	in := raid{Pattern: p.name, Target: b.Inbound, Connections: connections}
	for _, m := range b.members[:attackers] {
		in.Members = append(in.Members, [2][]byte{svid.EncodeCertificates(m.Leaf), testca.KeyPEM(t, m)})
	}
	a := &siege{log: &tail{}}
	var out *bufio.Reader
	a.cmd, a.in, out = startRole(t, attackersRole, a.log)
	a.lines = json.NewDecoder(out)
	t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			_ = a.cmd.Process.Kill()
			_ = a.cmd.Wait()
		}
	})
	if err := json.NewEncoder(a.in).Encode(in); err != nil {
		t.Fatal(err)
	}
	a.hears(t)
	return a
}

// end ends every connection of the attack, and tells how many there were.
func (a *siege) end(t *testing.T) booty {
	t.Helper()
	a.in.Close()
	got := a.hears(t)
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("the attackers: %v\n%s", err, a.log)
	}
	return got
}

func (a *siege) hears(t *testing.T) (got booty) {
	t.Helper()
	if err := a.lines.Decode(&got); err != nil {
		t.Fatalf("the attackers say nothing: %v\n%s", err, a.log)
	}
	return got
}

// horde is the attackers' side.
type horde struct {
	raid
	pattern
	members       []tls.Certificate
	tried, opened atomic.Int64
	failed        atomic.Pointer[error]
}

// attackAll is the attackers' process. It ends when the parent closes the pipe.
func attackAll(commands *bufio.Reader) error {
	var h horde
	line, err := commands.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &h.raid); err != nil {
		return err
	}
	at := slices.IndexFunc(patterns, func(p pattern) bool { return p.name == h.Pattern })
	if at < 0 {
		return fmt.Errorf("no pattern %q", h.Pattern)
	}
	h.pattern = patterns[at]
	for _, m := range h.Members {
		leaf, err := tls.X509KeyPair(m[0], m[1])
		if err != nil {
			return err
		}
		h.members = append(h.members, leaf)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, commands)
	}()
	out := json.NewEncoder(os.Stdout)
	say := func() { _ = out.Encode(h.booty()) } // who does not hear it has closed the other pipe as well
	var work sync.WaitGroup
	h.open(ctx, &work, sync.OnceFunc(say))
	say()
	work.Wait()
	<-ctx.Done()
	say()
	return nil
}

func (h *horde) booty() booty {
	got := booty{Tried: h.tried.Load(), Opened: h.opened.Load()}
	if err := h.failed.Load(); err != nil {
		got.Error = (*err).Error()
	}
	return got
}

// open opens the connections, and returns when all have been tried, or after a while. It calls begun after the first.
// Then others follow those that end.
func (h *horde) open(ctx context.Context, work *sync.WaitGroup, begun func()) {
	var tried sync.WaitGroup
	places, follow := make(chan struct{}, atOnce), make(chan struct{})
	defer close(follow)
	defer begun()
	paced := rate.NewLimiter(pace, 1)
	inTime, cancel := context.WithTimeout(ctx, opening)
	defer cancel()
	for i := range h.Connections {
		select {
		case places <- struct{}{}:
		case <-inTime.Done():
			return
		}
		tried.Add(1)
		work.Go(func() {
			first := sync.OnceFunc(func() { begun(); <-places; tried.Done() })
			for ctx.Err() == nil && h.tried.Add(1) <= total {
				h.one(ctx, i, first)
				first()
				<-follow
				if paced.Wait(ctx) != nil {
					return
				}
			}
			first()
		})
	}
	all := make(chan struct{})
	go func() { tried.Wait(); close(all) }()
	select {
	case <-all:
	case <-inTime.Done():
	}
}

// one is one connection of an attack. It calls opened once the connection is there.
func (h *horde) one(ctx context.Context, i int, opened func()) {
	err := h.connect(ctx, i, func() { h.opened.Add(1); opened() })
	if err != nil {
		h.failed.Store(&err)
	}
}

func (h *horde) connect(ctx context.Context, i int, opened func()) error {
	from := fmt.Sprintf("127.0.%d.%d", 10+i%attackers, 1+i%7)
	c, err := dialTCP(from, h.Target, h.receive, time.Now().Add(opening+2*patience))
	if err != nil {
		return err
	}
	defer c.Close()
	end := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer end()
	if h.stranger != nil {
		opened()
		err = h.stranger(c)
	} else {
		peer, refused := handshaken(c, h.members[i%attackers])
		if refused != nil {
			return refused
		}
		opened()
		if h.member != nil {
			err = h.member(peer)
		}
	}
	if err == nil && !h.churn {
		held(ctx, c)
	}
	return nil
}
