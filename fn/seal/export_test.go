package seal

// Len is the number of different recipients.
func (r Recipients) Len() int { return len(r.list) }
