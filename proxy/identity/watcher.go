package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshless-dev/meshless/internal/svid"
	"github.com/meshless-dev/meshless/proxy/files"
)

// Watcher holds the last good generation of a directory. Its fields are set before Run and not changed after.
type Watcher struct {
	Directory string
	Now       func() time.Time // default time.Now
	Watch     files.WatchOptions
	Log       *slog.Logger
	OnGood    func(*Snapshot) // called from Run, after the snapshot became Current
	Namespace string          // of the pod; "" where it is not known
	OnBad     func(error)     // called from Run, once for each different failure

	current    atomic.Pointer[Snapshot]
	failure    atomic.Pointer[string]
	seen       [32]byte // digest of the generation that was checked last
	seenReason string
	good       bool // whether seen became current
	revoked    revoked
}

// Current is the last good generation, or nil before the first.
func (w *Watcher) Current() *Snapshot { return w.current.Load() }

// Failure says why the newest generation is not in use; it is nil when it is, or when none was read yet.
func (w *Watcher) Failure() error {
	if text := w.failure.Load(); text != nil {
		return errors.New(*text)
	}
	return nil
}

// Run watches the directory until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	if w.Now == nil {
		w.Now = time.Now
	}
	files.Watch(ctx, w.Directory, w.Watch, w.reload)
}

// reload checks what the directory holds now. A bad generation is checked again at every poll, since time can heal it
// (not yet valid), but reported once.
func (w *Watcher) reload() {
	g, err := files.Read(w.Directory)
	if err == nil && w.good && g.Digest == w.seen {
		return
	}
	var next *Snapshot
	var listed []string
	if err == nil {
		listed = g.Mesh.RevokedKeys
		g.Mesh.RevokedKeys = w.revoked.with(listed)
		if next, err = New(g, w.Now); err == nil {
			err = w.checkNamespace(next)
		}
	}
	if err != nil {
		w.reject(g, err)
		return
	}
	if gone := w.revoked.keep(listed); gone > 0 {
		w.Log.Warn("revoked keys are no longer listed; this proxy refuses them until it restarts", "keys", gone,
			"hint", "was a commit reverted that had revoked them? Then revoke them again, since new pods accept them. If their certificates have expired, it is harmless")
	}
	next.Number = 1
	if last := w.current.Load(); last != nil {
		next.Number = last.Number + 1
	}
	w.seen, w.good, w.seenReason = g.Digest, true, ""
	w.failure.Store(nil)
	w.current.Store(next)
	w.Log.Info("generation in use", "generation", next.Number, "spiffe_id", next.ID.String(), "leaf_not_after", next.Leaf.NotAfter,
		"authorities", len(next.Bundle.Authorities()), "services", len(next.Mesh.Services), "revoked_keys", len(next.Mesh.RevokedKeys),
		"federated", len(next.Trust.Foreign()), "dry_run", next.Mesh.Inbound.DryRun)
	w.OnGood(next)
}

// checkNamespace refuses the identity of another namespace. Tools that move rendered manifests leave names in
// certificates and in the mesh map as they are.
func (w *Watcher) checkNamespace(s *Snapshot) error {
	if w.Namespace == "" || strings.HasPrefix(s.ID.Path(), "/ns/"+w.Namespace+"/") {
		return nil
	}
	return fmt.Errorf("the pod is in namespace %s, and its identity is %s: what was rendered for one namespace was applied to another (Flux targetNamespace, kubectl --namespace, a kustomization over the output). Set the namespace before the function renders, and issue anew", w.Namespace, s.ID)
}

func (w *Watcher) reject(g *files.Generation, err error) {
	var digest [32]byte
	if g != nil {
		digest = g.Digest
	}
	text, reason := err.Error(), err.Error()
	if refusal := new(svid.Error); errors.As(err, &refusal) {
		reason = string(refusal.Reason) // its text names the present time, so it differs at every poll
	}
	repeated := !w.good && digest == w.seen && reason == w.seenReason
	w.seen, w.good, w.seenReason = digest, false, reason
	w.failure.Store(&text)
	if repeated {
		return
	}
	var inUse uint64
	if last := w.current.Load(); last != nil {
		inUse = last.Number
	}
	w.Log.Error("generation refused", "error", text, "generation_in_use", inUse)
	w.OnBad(err)
}
