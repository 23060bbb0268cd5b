package simulation

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/issue"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// kept is how many commits back a revert can go; older ones lose their manifests to save memory.
const kept = 4

// git is the repository and those who write to it.
type git struct {
	config  *v1alpha1.MutualTLS
	ca      *age.X25519Identity
	wanted  []workload // that the manifests shall hold from the next render on
	created int        // workloads ever
	heads   []*commit  // in the order in which they were the head of the branch
	renders []renderRun
	since   map[string]time.Time // digest → when it was first published as revoked
	paused  bool                 // nobody renders
	replace bool                 // the next render begins to replace the authorities

	leaves    map[string]*leaf     // by the text in the Secret
	trusts    map[string]*trust    // by bundle and revoked keys
	published map[string]time.Time // key ID of an authority → when a bundle on the branch first held it
	signers   []string             // key IDs of the authorities that ever signed, in order
	replaced  map[string]bool      // key IDs of authorities that went ahead of time
	fresh     map[string]bool      // of the signers, those that began when no leaf was alive
	forged    map[*leaf]*leaf      // of mutants
	anew      bool                 // a mutant has thrown the state away
}

// commit is what the cluster sees of one.
type commit struct {
	from     time.Time // when it became head
	items    []*yaml.RNode
	leaves   map[string]*leaf // by workload
	bundle   string
	revoked  []string
	reverted bool // it is the content of an older one
	replaces bool // it is a step in the replacement of the authorities
}

// renderRun is what a render decided about each leaf.
type renderRun struct {
	at     time.Time
	leaves map[string]*leaf
}

func newGit(t testing.TB, p profile) git {
	t.Helper()
	g := git{ca: newIdentity(t), since: map[string]time.Time{}, leaves: map[string]*leaf{}, trusts: map[string]*trust{}, published: map[string]time.Time{}, forged: map[*leaf]*leaf{},
		fresh: map[string]bool{}, replaced: map[string]bool{}}
	text := strings.NewReplacer("CLUSTER", newIdentity(t).Recipient().String(), "CA_RECIPIENT", g.ca.Recipient().String(), "CERTIFICATES", p.certificates).Replace(configText)
	var err error
	if g.config, err = v1alpha1.Load(yaml.MustParse(text)); err != nil {
		t.Fatal(err)
	}
	return g
}

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func (g *git) head() *commit {
	if len(g.heads) == 0 {
		return &commit{}
	}
	return g.heads[len(g.heads)-1]
}

// until is when the i-th head was replaced; for the present one it is far in the future.
func (g *git) until(i int) time.Time {
	if i+1 < len(g.heads) {
		return g.heads[i+1].from
	}
	return start.Add(100 * 365 * day)
}

// propose renders on top of the head and merges the result after a review. Where the head has moved by then, it is
// rendered again, as a rebase must.
func (s *simulation) propose(review time.Duration) {
	base := s.git.head()
	c := s.render(s.edit(base.items))
	if c == nil {
		return
	}
	s.audit(c)
	s.git.renders = append(s.git.renders, renderRun{s.now, c.leaves})
	s.after(review, "merge", func() {
		if s.git.head() != base && len(s.git.heads) > 0 {
			s.propose(0)
			return
		}
		s.merge(c)
	})
}

// edit brings the manifests to what is wanted.
func (s *simulation) edit(items []*yaml.RNode) []*yaml.RNode {
	var out []*yaml.RNode
	have := map[string]bool{}
	for _, item := range items {
		key, ok := keyOf(item)
		if ok && !slices.ContainsFunc(s.git.wanted, func(w workload) bool { return w.key() == key }) {
			continue
		}
		have[key] = have[key] || ok
		out = append(out, item)
	}
	for _, w := range s.git.wanted {
		if !have[w.key()] {
			out = append(out, w.manifests(s.t)...)
		}
	}
	return out
}

// render runs the function, on a machine whose clock is as wrong as any other. A render that fails is a finding.
func (s *simulation) render(items []*yaml.RNode) *commit {
	if s.mutant.before != nil {
		items = s.mutant.before(s, items)
	}
	out := s.runFunction(items, s.now.Add(s.between(-maxSkew, maxSkew)))
	if out != nil && s.mutant.after != nil {
		out = s.mutant.after(s, out)
	}
	if out == nil {
		return nil
	}
	c := s.read(out)
	if s.mutant.published != nil {
		s.mutant.published(s, c)
	}
	return c
}

func (s *simulation) runFunction(items []*yaml.RNode, now time.Time) []*yaml.RNode {
	r := &report.Report{}
	out := pipeline.Run(items, s.git.config, pipeline.Options{Now: now, Mode: pipeline.Store, Actions: issue.Actions{Revoke: s.stillRevoked(), ReplaceCA: s.git.replace},
		CAIdentity: func() ([]age.Identity, error) { return []age.Identity{s.git.ca}, nil }}, r)
	s.git.replace = false
	s.record.renders++
	if r.Failed() {
		s.record.fail(renderFailed, s.now, "%s", strings.Join(r.Errors(), "; "))
		return nil
	}
	return out
}

// read takes certificates, bundle and revoked keys out of rendered Secrets and ConfigMaps.
func (s *simulation) read(items []*yaml.RNode) *commit {
	c := &commit{items: items, leaves: map[string]*leaf{}}
	revoked, mesh := []string(nil), ""
	for _, item := range items {
		identity := item.GetAnnotations()[api.IdentityAnnotation]
		switch {
		case item.GetKind() == "Secret" && identity != "":
			key := strings.TrimPrefix(identity, trustDomain.IDString())
			c.leaves[key] = s.leafOf(key, item.GetDataMap()[api.LeafFile])
		case item.GetKind() == "ConfigMap" && identity != "" && item.GetDataMap()[api.BundleFile] != "":
			text := item.GetDataMap()[api.BundleFile]
			if c.bundle != "" && c.bundle != text {
				s.record.fail(badCommit, s.now, "two namespaces have different bundles")
			}
			c.bundle = text
		case item.GetKind() == "ConfigMap" && identity != "" && mesh == "":
			mesh = item.GetDataMap()[api.MeshFile]
			parsed, err := meshmap.Parse([]byte(mesh))
			if err != nil {
				s.t.Fatal(err)
			}
			revoked = parsed.RevokedKeys
		}
	}
	c.revoked = revoked
	for _, a := range s.authoritiesOf(items) {
		if !a.Replaced.IsZero() {
			c.replaces, s.git.replaced[string(a.Certificate.SubjectKeyId)] = true, true
		}
	}
	return c
}

func (s *simulation) leafOf(workload, text string) *leaf {
	if l := s.git.leaves[text]; l != nil {
		return l
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		s.t.Fatal(err)
	}
	certificates, err := svid.ParseCertificates(decoded)
	if err != nil {
		s.t.Fatal(err)
	}
	l := &leaf{workload: workload, certificate: certificates[0], digest: svid.KeyDigest(certificates[0])}
	s.git.leaves[text] = l
	s.record.leaves++
	return l
}

// trust is one object for each bundle with revoked keys.
func (g *git) trust(bundle string, revoked []string) *trust {
	key := bundle + strings.Join(revoked, ",")
	if g.trusts[key] == nil {
		certificates, err := svid.ParseCertificates([]byte(bundle))
		if err != nil {
			panic(err) // audit has parsed it
		}
		b, err := svid.NewBundle(trustDomain, certificates, revoked)
		if err != nil {
			panic(err)
		}
		g.trusts[key] = &trust{bundle: b, text: bundle, revoked: revoked, refuses: map[*leaf]bool{}}
	}
	return g.trusts[key]
}

// merge makes a commit the head.
func (s *simulation) merge(c *commit) {
	c.from = s.now
	s.git.heads = append(s.git.heads, c)
	if n := len(s.git.heads) - kept; n > 0 {
		s.git.heads[n-1].items = nil
	}
	s.record.merges++
	for _, l := range c.leaves {
		l.merged = true
	}
	for _, ca := range s.git.trust(c.bundle, c.revoked).bundle.Authorities() {
		if id := string(ca.SubjectKeyId); s.git.published[id].IsZero() {
			s.git.published[id] = s.now
		}
	}
	for _, digest := range c.revoked {
		if s.git.since[digest].IsZero() {
			s.git.since[digest] = s.now
			s.after(maxApply+3*maxSwap, "revocation is everywhere", s.checkThieves)
		}
	}
	s.syncAll()
}

// revert makes an older commit the head again for a day. Then either that is reverted in turn, or the next render
// builds on it.
func (s *simulation) revert() {
	back := 1 + s.rng.IntN(kept-1)
	if len(s.git.heads) <= kept {
		return
	}
	undone := s.git.head()
	s.git.restore(s, s.git.heads[len(s.git.heads)-1-back])
	undo := s.rng.IntN(2) == 0
	at := s.git.head()
	s.after(day, "the day after a revert", func() {
		switch {
		case s.git.head() != at:
		case undo:
			s.git.restore(s, undone)
		default:
			s.propose(0)
		}
	})
}

func (g *git) restore(s *simulation, old *commit) {
	s.record.reverts++
	again := &commit{items: old.items, leaves: old.leaves, bundle: old.bundle, replaces: old.replaces, revoked: g.head().revoked, reverted: true}
	if s.mutant.unrevokes {
		again.revoked = old.revoked
	}
	s.merge(again)
}
