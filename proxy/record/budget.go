package record

import "time"

// What a peer may send for which no data pays. A KeyUpdate costs us a few microseconds and the peer next to nothing,
// and a record without data moves nothing. So both are limited, by time: a connection may be old, and quiet.
const (
	// burst is how many may come at once. 16 records without data in a row is what crypto/tls takes.
	burst = 16
	// refill is after how long one more is free.
	refill = 100 * time.Millisecond
	// bytesPerUpdate of data pay for one more KeyUpdate.
	bytesPerUpdate = 1 << 20
	// maxUnanswered bounds the KeyUpdates that our records pay for. A peer may ask for new keys at each record that
	// arrives after its limit, until our answer arrives (JDK-8329548). So what we have on the way may bring as many
	// requests: this many full records are 64 MiB, more than sockets hold. All at once they cost us about 20 ms, and
	// the next as many cost the peer that it takes as many records from us.
	maxUnanswered = 1 << 12
)

// started is where the clock of the budgets begins. It is the monotonic one: no step of the system's time matters.
var started = time.Now()

func sinceStart() time.Duration { return time.Since(started) }

// budget is how many more a peer may send.
type budget struct {
	left int
	at   time.Duration // when time was last counted
}

// take takes one, if one is left.
func (b *budget) take(now time.Duration) bool {
	earned := (now - b.at) / refill
	b.at += earned * refill
	b.earn(int(earned), burst)
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

// earn adds n, up to limit. What is above that already stays.
func (b *budget) earn(n, limit int) { b.left = max(b.left, min(b.left+n, limit)) }
