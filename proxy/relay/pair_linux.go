package relay

import (
	"errors"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/epoll"
)

// pair is a session in a loop: two sockets, and a half in each direction. Only the loop's goroutine uses it, but for
// attach, end and unresponsive, and the ledger its part.
type pair struct {
	loop           *loop
	task           epoll.Task
	session        *Session
	client, server socket
	toServer       half // what the client sends
	toClient       half
	ended          atomic.Bool
	entry          entry // in the ledger
	watch          watch
}

// socket is one end of a pair.
type socket struct {
	epoll.Socket
	peer     net.Addr
	tls      bool // it carries TLS records
	finished bool // our direction of it has ended
	full     bool // it took less than it was given, since it carries more than messages
	alerted  bool // its peer was told that it has broken the protocol
}

func newPair(l *loop, s *Session) *pair {
	p := &pair{loop: l, session: s}
	p.task.Handler = p
	p.client = socket{Socket: epoll.Socket{FD: -1}, tls: s.client.records != nil}
	p.server = socket{Socket: epoll.Socket{FD: -1}, tls: s.server.records != nil}
	p.toServer = half{meter: meter{session: s, count: s.options.Received}, src: &p.client, dst: &p.server,
		open: s.client.records, seal: s.server.records, ledger: l.ledger, rest: s.options.Prefix}
	p.toClient = half{meter: meter{session: s, count: s.options.Sent}, src: &p.server, dst: &p.client,
		open: s.server.records, seal: s.client.records, ledger: l.ledger}
	p.toServer.begin(s.client)
	p.toClient.begin(s.server)
	return p
}

// attach takes the sockets from package net into the loop, which may begin to serve them before it returns. Its caller
// holds the session's lock.
func (p *pair) attach() error {
	client, server := p.session.client, p.session.server
	p.client.peer, p.server.peer = client.tcp.RemoteAddr(), server.tcp.RemoteAddr()
	var errs [2]error
	p.client.FD, errs[0] = epoll.Detach(client.tcp)
	p.server.FD, errs[1] = epoll.Detach(server.tcp)
	if err := errors.Join(errs[:]...); err != nil {
		client.abort() // does nothing to one that was detached
		server.abort()
		return err
	}
	if p.loop.ledger.tight(queues) {
		p.client.narrow()
		p.server.narrow()
	}
	return errors.Join(p.loop.Watch(&p.client.Socket, &p.task), p.loop.Watch(&p.server.Socket, &p.task))
}

// narrowBuffer is for sockets of a session that begins while memory is short, in bytes. The kernel doubles it.
const narrowBuffer = 64 << 10

// narrow bounds what the kernel keeps between the app and us. It would be megabytes: on the loopback interface segments
// are large, and windows grow fast. There it costs little speed; on the way to the peer it would cost much.
func (s *socket) narrow() {
	if s.tls {
		return
	}
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		_ = unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, option, narrowBuffer)
	}
}

// end lets the loop end a pair whose session was aborted.
func (p *pair) end() {
	if !p.loop.Wake(&p.task) {
		p.finish()
	}
}

// unresponsive tells which peer no longer acknowledges anything. Its caller holds the session's lock.
func (p *pair) unresponsive() error {
	for _, s := range []*socket{&p.client, &p.server} {
		if s.FD >= 0 && unresponsiveSocket(s.FD) {
			return unresponsiveError(s.peer)
		}
	}
	return nil
}

// Turn implements epoll.Handler. It moves at most one buffer in each direction.
func (p *pair) Turn() (more bool) {
	if p.ended.Load() {
		return false
	}
	if p.session.aborted.Load() {
		p.finish()
		return false
	}
	more = p.move()
	if !p.ended.Load() {
		p.account()
	}
	return more
}

func (p *pair) move() (more bool) {
	for _, h := range p.halves() {
		again, err := h.turn()
		if err != nil {
			p.failBy(h, err)
			return false
		}
		more = more || again
	}
	switch {
	case p.toServer.done && p.toClient.done:
		p.finish()
		return false
	case p.client.Broken:
		p.failBy(&p.toClient, brokenBy(p.client.FD))
		return false
	case p.server.Broken:
		p.failBy(&p.toServer, brokenBy(p.server.FD))
		return false
	}
	return more
}

// Fail implements epoll.Handler. It ends the session with an error.
func (p *pair) Fail(err error) {
	p.session.end(err)
	p.finish()
}

// lastTurns bounds what a failed session still passes on: the others of its loop wait for it.
const lastTurns = 64

// failBy ends a session with an error of h. What the other half has brought already is passed on first, as far as it is
// taken at once: an app may answer, and then reset because it does not want the rest of a question. Where that is an
// alert, it is why the peer has reset, and so why the session ends.
func (p *pair) failBy(h *half, err error) {
	p.sendAlert(h, err)
	other := p.other(h)
	other.src.Readable = true // a failed write may have consumed the error that would wake it
	other.src.Uneven = true
	for range lastTurns {
		more, otherErr := other.turn()
		if isAlert(otherErr) {
			err = otherErr
		}
		if !more || otherErr != nil {
			break
		}
	}
	p.Fail(err)
}

func (p *pair) other(h *half) *half {
	if h == &p.toServer {
		return &p.toClient
	}
	return &p.toServer
}

// sendAlert tells a peer that it has broken the protocol, if nothing is in the way.
func (p *pair) sendAlert(h *half, err error) {
	if h.open == nil || len(p.other(h).pending) > 0 {
		return
	}
	if alert := h.open.Alert(nil, err); len(alert) > 0 {
		n, _ := h.src.Write(alert)
		h.src.alerted = n == len(alert)
	}
}

// finish closes both sockets. The loop's goroutine calls it; after the loop's end the caller of Abort does. It reports
// in a goroutine of its own: a log that is stuck must not stop the loop.
func (p *pair) finish() {
	if p.ended.Swap(true) {
		return
	}
	orderly := p.session.end(nil)
	p.toServer.drop()
	p.toClient.drop()
	p.session.mu.Lock() // Unresponsive looks at sockets, and attach may still be adding the second one
	for _, s := range []*socket{&p.client, &p.server} {
		if s.alerted && p.loop.linger(&s.Socket) {
			continue
		}
		p.loop.Forget(&s.Socket)
		// An app must see a reset. A proxy knows a cut stream by the missing close_notify, so it needs none where
		// nothing is under way that must not arrive any more. There a reset does harm: for ten seconds conntrack keeps
		// what a server has reset, and the chain guard of init then refuses a new connection from the same port.
		s.Close(!orderly && !s.alerted && !(s.tls && s.Settled()))
	}
	p.session.mu.Unlock()
	p.loop.ledger.remove(p.session)
	go p.session.conclude(p.toServer.total, p.toClient.total)
}
