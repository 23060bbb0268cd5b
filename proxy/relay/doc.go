// Package relay copies bytes between a client and a server, both ways at once. It knows connections, bytes and errors,
// and tells its caller through callbacks; it knows no identity, no metrics and no log.
//
// What it promises: the end of one direction is passed on without ending the other (half-close). An abortive end is
// passed on as one. A session on which nothing moves for long is ended.
//
// # Goroutines
//
// A [Session] with TLS is a pair in one loop of the [Engine]: it has no goroutine of its own. Sessions are spread over
// the loops in turn, and stay where they are. A session without TLS, and every session in FIPS mode, has two
// goroutines, one for each direction (flow). The report at the end of a session runs in a goroutine of its own.
//
// # Who owns what
//
//	socket               package net until attach, then the loop; the loop's goroutine closes it
//	pair, half, buffers  the loop's goroutine
//	record.Conn          the handshake's goroutine, then the loop's; one half opens with it, the other half seals
//	Session.err          whoever calls end first; read after that
//	Session.last         atomic; written as bytes move, read by the idle timer
//
// Any goroutine may call Abort and Unresponsive. Abort sets aborted and wakes the loop, which then closes the sockets.
//
// # Locks
//
//	Session.mu  the field pair, and the closing of its sockets: Unresponsive asks the kernel about descriptors
//	Loop.mu     which sockets a loop has, which tasks were woken, whether the loop has ended
//
// The order is Session.mu, then Loop.mu. The loop calls its handlers without Loop.mu. No callback runs under a lock.
//
// # States of a half
//
//	state     fields                what happens in a turn
//	early     early, rest           rest is taken as if it had just been read
//	idle      no in, no out         read; EAGAIN: stay
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
// which cannot be opened yet, moves to rest: memory of that record's size. A half begins with small buffers, and takes
// larger ones while it fills them. All sessions together use at most 64 large ones, but for siblings that are needed at
// once.
package relay
