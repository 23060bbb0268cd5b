package simulation

import (
	"crypto/rand"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// mutant breaks one rule of the design. The zero mutant breaks none.
type mutant struct {
	before    func(s *simulation, items []*yaml.RNode) []*yaml.RNode // changes what a render sees
	after     func(s *simulation, items []*yaml.RNode) []*yaml.RNode // changes what it wrote
	published func(s *simulation, c *commit)                         // changes what the cluster sees of it
	unrevokes bool                                                   // a revert takes revocations back
}

// small is the fleet on which rules are broken: two promotions, and time for the first authority to be dropped.
var small = profile{
	name: "small", days: 230, workloads: 12, nodes: 12, namespaces: 2, replicas: 3,
	cadence: [2]time.Duration{5 * day, 6 * day}, review: 12 * time.Hour, stuck: maxStuck,
	churn: 20 * day, hang: 3 * day, drain: 6 * time.Hour, revert: 20 * day, revoke: 15 * day, recipients: 70 * day,
}

// Each broken rule fails as it must, in handshakes as in what is judged beside them, and the unbroken fleet of the same
// seed does not.
func TestBrokenRulesAreCaught(t *testing.T) {
	for name, test := range map[string]struct {
		mutant mutant
		want   []kind
	}{
		"none": {mutant{}, nil},
		"an authority signs before it was published": {mutant{after: signAtOnce}, []kind{kind(svid.UnknownAuthority), unannounced}},
		"a retired root is dropped early":            {mutant{published: dropRetired}, []kind{kind(svid.UnknownAuthority), badCommit, lostAuthority}},
		"a leaf outlives its authority":              {mutant{published: outliveAuthority}, []kind{kind(svid.UnknownAuthority), outlives}},
		"NotBefore is not back-dated":                {mutant{published: startNow}, []kind{kind(svid.NotYetValid)}},
		"a leaf expires before it is renewed":        {mutant{published: neverRenew}, []kind{kind(svid.Expired)}},
		"everything is issued anew without overlap":  {mutant{before: startAnew}, []kind{kind(svid.UnknownAuthority), lostAuthority, unannounced}},
		"a revert takes a revocation back":           {mutant{unrevokes: true}, []kind{acceptedRevoked}},
		"two workloads' Secrets are swapped":         {mutant{published: swapSecrets}, []kind{refusedOwn}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSimulation(t, small, test.mutant, 1)
			s.run()
			t.Logf("%s\n%s", s.record.figures(), s.record.text())
			for _, k := range test.want {
				if s.record.failures[k] == 0 {
					t.Errorf("the simulation does not notice: no failure %q", k)
				}
			}
			if len(test.want) == 0 && len(s.record.failures) > 0 {
				t.Error("the unbroken fleet fails")
			}
		})
	}
}

// signAtOnce makes the Next that a promotion has just created the Active of the same commit, and issues everything
// anew.
func signAtOnce(s *simulation, items []*yaml.RNode) []*yaml.RNode {
	authorities := s.authoritiesOf(items)
	next := authorities.In(v1alpha1.SlotNext)
	if len(s.git.heads) == 0 || !s.git.published[string(next.Certificate.SubjectKeyId)].IsZero() {
		return items
	}
	list, err := authorityObject(items).Pipe(yaml.Lookup("spec", "authorities"))
	if err != nil {
		s.t.Fatal(err)
	}
	elements, err := list.Elements()
	if err != nil {
		s.t.Fatal(err)
	}
	set := func(element *yaml.RNode, field, value string) {
		if err := element.PipeE(yaml.SetField(field, yaml.NewStringRNode(value))); err != nil {
			s.t.Fatal(err)
		}
	}
	for i, a := range authorities {
		switch a.Slot {
		case v1alpha1.SlotActive:
			set(elements[i], "slot", string(v1alpha1.SlotRetired))
			if _, err := elements[i].Pipe(yaml.Clear("sealedKey")); err != nil {
				s.t.Fatal(err)
			}
			if _, err := elements[i].Pipe(yaml.Clear("recipients")); err != nil {
				s.t.Fatal(err)
			}
			set(elements[i], "trustedUntil", a.Certificate.NotAfter.UTC().Format(time.RFC3339))
		case v1alpha1.SlotNext:
			set(elements[i], "slot", string(v1alpha1.SlotActive))
			set(elements[i], "activeSince", s.now.UTC().Format(time.RFC3339))
		}
	}
	return s.runFunction(slices.DeleteFunc(items, func(item *yaml.RNode) bool {
		return item.GetKind() == "Secret" && item.GetAnnotations()[api.IdentityAnnotation] != ""
	}), s.now.Add(maxSkew)) // not before the clock that made the Next
}

// dropRetired publishes bundles of Active and Next alone.
func dropRetired(s *simulation, c *commit) {
	var trusted []*x509.Certificate
	for _, a := range s.authoritiesOf(c.items) {
		if a.Slot != v1alpha1.SlotRetired {
			trusted = append(trusted, a.Certificate)
		}
	}
	c.bundle = string(svid.EncodeCertificates(trusted...))
}

// outliveAuthority publishes leaves that end two months after their authority, and does not renew them before.
func outliveAuthority(s *simulation, c *commit) {
	s.publishFirst(c, func(template, authority *x509.Certificate) { template.NotAfter = authority.NotAfter.Add(60 * day) })
}

// neverRenew publishes the first leaf of each workload for as long as there is one.
func neverRenew(s *simulation, c *commit) { s.publishFirst(c, func(_, _ *x509.Certificate) {}) }

func (s *simulation) publishFirst(c *commit, change func(template, authority *x509.Certificate)) {
	last := s.git.head().leaves
	for key, l := range c.leaves {
		if c.leaves[key] = last[key]; last[key] == nil || slices.Contains(c.revoked, last[key].digest) {
			c.leaves[key] = s.forge(c, l, change)
		}
	}
}

// startNow publishes leaves that are valid from the moment of the render on, by a clock that is right.
func startNow(s *simulation, c *commit) {
	for key, l := range c.leaves {
		c.leaves[key] = s.forge(c, l, func(template, _ *x509.Certificate) { template.NotBefore = s.now })
	}
}

// startAnew throws the state away when the recipients change.
func startAnew(s *simulation, items []*yaml.RNode) []*yaml.RNode {
	if len(s.git.heads) == 0 || s.now.Before(start.Add(60*day)) || s.git.anew {
		return items
	}
	s.git.anew = true
	var fresh []*yaml.RNode
	for _, w := range s.git.wanted {
		fresh = append(fresh, w.manifests(s.t)...)
	}
	return fresh
}

// swapSecrets gives two workloads each other's Secret, once: sealing does not authenticate.
func swapSecrets(s *simulation, c *commit) {
	if s.now.Before(start.Add(30*day)) || len(s.git.wanted) < 2 {
		return
	}
	a, b := s.git.wanted[0].key(), s.git.wanted[1].key()
	c.leaves[a], c.leaves[b] = c.leaves[b], c.leaves[a]
}

func authorityObject(items []*yaml.RNode) *yaml.RNode {
	i := slices.IndexFunc(items, func(item *yaml.RNode) bool { return item.GetKind() == v1alpha1.KindCertificateAuthority })
	return items[i]
}

func (s *simulation) authoritiesOf(items []*yaml.RNode) certs.Authorities {
	state, err := v1alpha1.ParseCertificateAuthority(authorityObject(items))
	if err != nil {
		s.t.Fatal(err)
	}
	authorities, err := certs.ParseAuthorities(state, trustDomain)
	if err != nil {
		s.t.Fatal(err)
	}
	return authorities
}

// forge signs a leaf again with the key of its authority, which must be Active in the commit; other leaves were forged
// when it was.
func (s *simulation) forge(c *commit, l *leaf, change func(template, authority *x509.Certificate)) *leaf {
	if s.git.forged[l] != nil {
		return s.git.forged[l]
	}
	active := s.authoritiesOf(c.items).In(v1alpha1.SlotActive)
	key, err := seal.Open(active.SealedKey, []age.Identity{s.git.ca})
	if err == nil {
		err = active.Unlock(key)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	template := *l.certificate
	change(&template, active.Certificate)
	der, err := x509.CreateCertificate(rand.Reader, &template, active.Certificate, l.certificate.PublicKey, active.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	s.git.forged[l] = &leaf{workload: l.workload, certificate: certificate, digest: l.digest}
	return s.git.forged[l]
}
