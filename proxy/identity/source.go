package identity

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
)

// Source holds the last good generation of a directory. Its fields are set before Run and not changed after.
type Source struct {
	Directory string
	Now       func() time.Time // default time.Now
	Watch     files.WatchOptions
	Log       *slog.Logger
	OnGood    func(*Snapshot) // called from Run, after the snapshot became Current; may be nil
	OnBad     func(error)     // called from Run, once for each different failure; may be nil

	current    atomic.Pointer[Snapshot]
	failure    atomic.Pointer[string]
	seen       [32]byte // digest of the generation that was judged last
	seenReason string
	good       bool // whether seen became current
	revoked    revoked
}

// Current is the last good generation, or nil before the first.
func (s *Source) Current() *Snapshot { return s.current.Load() }

// Failure says why the newest generation is not in use; it is nil when it is, or when none was read yet.
func (s *Source) Failure() error {
	if text := s.failure.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

// Run watches the directory until ctx ends.
func (s *Source) Run(ctx context.Context) {
	if s.Now == nil {
		s.Now = time.Now
	}
	files.Watch(ctx, s.Directory, s.Watch, s.reload)
}

// reload judges what the directory holds now. A bad generation is judged again at every poll, since time can heal it
// (not yet valid), but reported once.
func (s *Source) reload() {
	g, err := files.Read(s.Directory)
	if err == nil && s.good && g.Digest == s.seen {
		return
	}
	var next *Snapshot
	var listed []string
	if err == nil {
		listed = g.Mesh.RevokedKeys
		g.Mesh.RevokedKeys = s.revoked.with(listed)
		next, err = New(g, s.Now)
	}
	if err != nil {
		s.reject(g, err)
		return
	}
	if gone := s.revoked.keep(listed); gone > 0 {
		s.Log.Warn("revoked keys are not listed any more; this proxy goes on refusing them until it restarts", "keys", gone,
			"hint", "was a commit reverted that had revoked them? Then revoke them again, since new pods accept them. If their certificates have expired, it is harmless")
	}
	next.Number = 1
	if last := s.current.Load(); last != nil {
		next.Number = last.Number + 1
	}
	s.seen, s.good, s.seenReason = g.Digest, true, ""
	s.failure.Store(nil)
	s.current.Store(next)
	s.Log.Info("generation in use", "generation", next.Number, "spiffe_id", next.ID.String(), "leaf_not_after", next.Leaf.NotAfter,
		"authorities", len(next.Bundle.Authorities()), "services", len(next.Mesh.Services), "revoked_keys", len(next.Mesh.RevokedKeys),
		"federated", len(next.Trust.Foreign()), "dry_run", next.Mesh.Inbound.DryRun)
	if s.OnGood != nil {
		s.OnGood(next)
	}
}

func (s *Source) reject(g *files.Generation, err error) {
	var digest [32]byte
	if g != nil {
		digest = g.Digest
	}
	text, reason := err.Error(), err.Error()
	if refusal := new(svid.Error); errors.As(err, &refusal) {
		reason = string(refusal.Reason) // its text names the present time, so it differs at every poll
	}
	repeated := !s.good && digest == s.seen && reason == s.seenReason
	s.seen, s.good, s.seenReason = digest, false, reason
	s.failure.Store(&text)
	if repeated {
		return
	}
	var inUse uint64
	if last := s.current.Load(); last != nil {
		inUse = last.Number
	}
	s.Log.Error("generation refused", "error", text, "generation_in_use", inUse)
	if s.OnBad != nil {
		s.OnBad(err)
	}
}
