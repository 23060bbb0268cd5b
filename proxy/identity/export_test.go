package identity

// EarlierKeys is how many keys of chains before are remembered.
func (p *Peer) EarlierKeys() int { return len(p.earlier) }
