package relay

// Gate limits how many handshakes compute at once. One that waits for its peer is outside: a peer that stalls blocks
// nobody. The zero value lets everybody in.
type Gate chan struct{}

// NewGate lets n handshakes compute at once.
func NewGate(n int) Gate { return make(Gate, max(1, n)) }

func (g Gate) enter() {
	if g != nil {
		g <- struct{}{}
	}
}

func (g Gate) leave() {
	if g != nil {
		<-g
	}
}
