package registry

// Len is the number of registered connections.
func (r *Registry) Len() int { return len(r.all()) }
