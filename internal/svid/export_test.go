package svid

// MaxMemo bounds a Memo.
const MaxMemo = maxMemo

// Len is how many chains are remembered.
func (m *Memo) Len() int { return len(m.accepted) }

// Own is the bundle of our own trust domain.
func (s *Set) Own() *Bundle { return s.own }
