package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

// know takes a session that goroutines move into the ledger.
func (e *Engine) know(s *Session) { e.ledger.add(s, &entry{plain: true}) }

// forget takes it out again.
func (e *Engine) forget(s *Session) { e.ledger.remove(s) }

// lookAtPlain looks now and then at the sessions that goroutines move, until the engine is closed. They have no buffer
// that grows, but the kernel queues for them as for the others.
func (e *Engine) lookAtPlain(interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			e.ledger.lookAtPlain()
		case <-e.ended:
			return
		}
	}
}

// lookAtPlain says what such sessions hold, but for what they have moved since the last look.
func (l *ledger) lookAtPlain() {
	for s, e := range l.plain() {
		var kernel, total [2]int64 // to the server, and to the client
		for i, side := range []*Side{s.client, s.server} {
			ask(side.tcp, func(fd int) bool {
				received, sent := queued(fd)
				kernel[i] += received
				kernel[1-i] += sent
				if info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO); err == nil {
					total[i] += int64(info.Bytes_received)
					total[1-i] += int64(info.Bytes_acked)
				}
				return true
			}, false)
		}
		var held int64
		for i := range kernel {
			moved := max(0, total[i]-e.seen[i])
			held += max(0, kernel[i]-moved)
		}
		e.seen = total
		l.set(e, queues, held, held)
		if !l.has(s) { // it has ended meanwhile
			l.clear(e)
		}
	}
}

func (l *ledger) has(s *Session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions[s] != nil
}

func (l *ledger) plain() map[*Session]*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[*Session]*entry{}
	for s, e := range l.sessions {
		if e.plain {
			found[s] = e
		}
	}
	return found
}
