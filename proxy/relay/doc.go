// Package relay copies bytes between a client and a server, both ways at once. It knows connections, bytes and errors,
// and tells its caller through callbacks; it knows no identity, no metrics and no log.
//
// What it promises: the end of one direction is passed on without ending the other (half-close). An abortive end is
// passed on as one. A session that is quiet stays, unless it has an idle timeout; that of a peer which is gone ends by
// keepalive. What all sessions hold is bounded ([Limits]), and whoever holds most without moving it loses first.
//
// # Goroutines
//
// A [Session] with TLS is a pair in one loop of the [Engine]: it has no goroutine of its own. Sessions are spread over
// the loops in turn, and stay where they are. A session without TLS, and every session with Standard records, has two
// goroutines, one for each direction (flow). The report at the end of a session runs in a goroutine of its own.
//
// # Who owns what
//
//	socket               package net until attach, then the loop; the loop's goroutine closes it
//	pair, half, buffers  the loop's goroutine
//	record.Conn          the handshake's goroutine, then the loop's; one half opens with it, the other half seals
//	Session.err          whoever calls end first; read after that
//	Session.last         atomic; written as bytes move, read by the idle timer and IdleSince
//	entry                held, stuck: atomic; written by the loop, or by the goroutine that looks at sessions without
//	                     one; read by whoever searches the ledger
//	loop.watched         the loop's goroutine: sessions that move or hold memory
//
// Any goroutine may call Abort and Unresponsive. Abort sets aborted and wakes the loop, which then closes the sockets.
//
// # Locks
//
//	Session.mu  the field pair, and the closing of its sockets: Unresponsive asks the kernel about descriptors
//	Loop.mu     which sockets a loop has, which tasks were woken, whether the loop has ended
//	ledger.mu   which sessions the engine has: taken at the start and the end of each, and to search for the worst
//
// The order is Session.mu, then Loop.mu. The loop calls its handlers without Loop.mu. No callback runs under a lock,
// and nothing is ended under ledger.mu.
//
// # States of a half
//
//	state     fields                what happens in a turn
//	early     early, rest           rest is taken as if it had just been read
//	idle      no in, no out         read; EAGAIN: stay
//	blocked   no in, no out         dst was full, or memory is short: ask for room in dst before reading
//	partial   rest                  read the missing bytes of the record into rest
//	writing   pending, out          write; reading pauses until dst has taken everything
//	failing   failed, perhaps out   write what is pending, then end the session with failed
//	ending    ended, perhaps out    write what is pending, then tell dst that no more comes
//	done      done                  nothing; when both halves are done, the session ends in order
//
// # Buffers
//
// A half acquires a buffer (in) when src is readable, and a sibling (out) for what becomes of the content. It releases
// in once everything is used, and out once dst has taken it. So an idle session holds none. The beginning of a record,
// which cannot be opened yet, moves to rest: memory of at most four times what has arrived of it, and of the record's
// size. A half begins with small buffers, and takes larger ones while it fills them. All sessions together use at most
// 64 large ones, but for siblings that are needed at once.
//
// # Memory
//
// What cannot be passed on should not be read: in the kernel it costs less, and its sender learns to wait. So a half
// asks whether dst has room before it reads, once dst was full, and always while memory is short: when more than half
// of Limits.Buffered is held. Then all halves use small buffers. When more than half of Limits.Queued is held, new
// sessions get small buffers of the kernel between the app and us.
//
// After each turn a session tells the ledger what it holds, if that has changed: buffers but for large ones, rest; and
// apart from these, what the kernel has queued in each direction beyond what has moved there lately. A loop looks at
// the sessions that move or hold something once a second. There it asks the kernel, takes buffers from sessions that
// stand still (what they hold is copied into memory of its size), and ends those whose peer has begun a record and
// keeps the rest back (Limits.Record). A record whose rest waits in our socket, or behind data that the other side does
// not take, is not the peer's fault, and is never ended.
//
// Sessions that goroutines move have buffers of a fixed size, which do not count. What the kernel queues for them does;
// a goroutine of the engine asks for it.
//
// Over one of the limits the ledger searches through all sessions. Those of the owner that holds most beyond what it
// moves end first, the largest of it first, until an eighth of it is free ([ErrMemory]).
//
// # Alerts
//
// After our fatal alert a socket is not closed at once: up to 64 of them are shut for writing and linger in their
// loop, for a second and a MiB at most, so that a peer that is writing reads the alert. If both halves have something
// to say about the end, the peer's alert is the reason.
package relay
