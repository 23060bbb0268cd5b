package listen

// Sources is the number of addresses that have a connection now.
func (l *SourceLimit) Sources() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}
