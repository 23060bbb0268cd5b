package identity

import "slices"

// maxRevoked bounds the keys that are kept although mesh.yaml does not list them any more.
const maxRevoked = 10_000

// revoked are the keys that a generation in use has revoked and a later one has forgotten. A revocation is meant to be
// final, and a revert in Git brings back a map from before it, perhaps with the very certificate: what this process has
// seen revoked stays revoked.
type revoked struct {
	listed []string // by the generation in use
	gone   []string // not any more; the longest gone first
}

// with is the list of a new generation and every other key that was revoked before. The list itself is not changed.
func (r *revoked) with(list []string) []string {
	known := set(list)
	all := slices.Clone(list)
	for _, key := range slices.Concat(r.gone, r.listed) {
		if !known[key] {
			known[key] = true
			all = append(all, key)
		}
	}
	return all
}

// keep takes over the list of a generation that is in use now, and counts the keys that are missing from it for the
// first time. Beyond maxRevoked those go that have been gone for longest, as their certificates are the first to
// expire.
func (r *revoked) keep(list []string) (missing int) {
	known := set(list)
	r.gone = slices.DeleteFunc(r.gone, func(key string) bool { return known[key] })
	for _, key := range r.listed {
		if !known[key] {
			known[key] = true
			r.gone = append(r.gone, key)
			missing++
		}
	}
	if excess := len(r.gone) - maxRevoked; excess > 0 {
		r.gone = slices.Delete(r.gone, 0, excess)
	}
	r.listed = list
	return missing
}

func set(keys []string) map[string]bool {
	m := make(map[string]bool, len(keys))
	for _, key := range keys {
		m[key] = true
	}
	return m
}
