package relay

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/proxy/epoll"
)

// lingerer is a socket that lingers in a loop.
type lingerer struct {
	epoll.Socket
	loop  *loop
	task  epoll.Task
	left  int
	until time.Time
}

// linger takes a socket over, if there is a place. Only the loop's goroutine calls it.
func (l *loop) linger(s *epoll.Socket) bool {
	if !l.lingers.acquire() {
		return false
	}
	g := &lingerer{loop: l, left: lingerBytes, until: time.Now().Add(lingerTime)}
	g.task.Handler = g
	if unix.Shutdown(s.FD, unix.SHUT_WR) != nil || !l.Move(s, &g.Socket, &g.task) {
		l.lingers.release()
		return false
	}
	l.lingering = append(l.lingering, g)
	l.tickSoon()
	g.Readable = true
	l.Wake(&g.task)
	return true
}

// Turn implements epoll.Handler. It discards what has arrived, up to one buffer.
func (g *lingerer) Turn() (more bool) {
	if g.FD < 0 {
		return false
	}
	b := acquire(medium)
	defer b.release()
	n, err := g.Read(b.bytes)
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil, n == 0, n > g.left:
		g.end()
		return false
	}
	g.left -= n
	return true
}

// Fail implements epoll.Handler.
func (g *lingerer) Fail(error) { g.end() }

func (g *lingerer) end() {
	if g.FD < 0 {
		return
	}
	g.loop.Forget(&g.Socket)
	g.Close(false)
	g.loop.lingers.release()
}

// endLingers ends those whose time is over, and forgets those that have ended.
func (l *loop) endLingers() {
	kept := l.lingering[:0]
	for _, g := range l.lingering {
		if !time.Now().Before(g.until) {
			g.end()
		}
		if g.FD >= 0 {
			kept = append(kept, g)
		}
	}
	clear(l.lingering[len(kept):])
	l.lingering = kept
}
