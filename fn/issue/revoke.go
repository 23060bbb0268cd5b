package issue

import (
	"cmp"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/svid"
)

// revocation is what a run does to the keys that are trusted no more.
type revocation struct {
	kept    certs.Revocations // as the CertificateAuthority lists them afterwards; nil when it is not in the input
	digests []string          // as the bundles list them
	before  certs.Revocations
	asked   []v1alpha1.RevokedKey // by Actions
}

// revocations determines the keys that are trusted no more.
func (i *issuer) revocations(bundle []*x509.Certificate) revocation {
	r, ok := i.storedRevocations(bundle)
	if i.Mode != Issue || !ok {
		return r
	}
	listed := r.digests
	r.asked = i.revokeNamed(bundle)
	r.kept = r.before.At(i.Now.Add(-i.rememberRevoked()), r.asked...)
	if r.digests = r.kept.At(i.Now).Digests(); i.tooMany(len(r.digests)) {
		return revocation{}
	}
	for _, key := range without(listed, r.digests) {
		i.report.Info(i.authority(), "spec.revoked", "key %s is listed as revoked no more: its time in the CertificateAuthority is over", key)
	}
	return r
}

// storedRevocations reads what is revoked. The CertificateAuthority says until when each key is listed; the bundles
// repeat the digests, since a `kustomize build` sees only them. It is not ok when there are too many.
func (i *issuer) storedRevocations(bundle []*x509.Certificate) (r revocation, ok bool) {
	listed := i.listedKeys()
	if i.tooMany(len(listed)) {
		return r, false
	}
	if i.model.State.Authority == nil && i.Mode != Issue {
		return revocation{digests: listed}, true
	}
	var known certs.Revocations
	if i.model.State.Authority != nil {
		if state, err := v1alpha1.ParseCertificateAuthority(i.model.State.Authority); err == nil {
			// else it is reported already
			known = certs.Revocations(state.Spec.Revoked).Extend(i.leaves)
		}
	}
	if lost := without(listed, known.Digests()); len(lost) > 0 {
		known = i.recoverRevoked(known, lost, bundle)
	}
	return revocation{kept: known, digests: listed, before: known}, true
}

// without are the texts that are not among others.
func without(texts, others []string) []string {
	return slices.DeleteFunc(slices.Clone(texts), sets.New(others...).Has)
}

// maxRevoked is how many digests fit into an annotation of the bundles: Kubernetes allows 256 KiB for all annotations
// of an object.
const maxRevoked = 3500

// tooMany refuses more revoked keys than can be published.
func (i *issuer) tooMany(n int) bool {
	if n > maxRevoked {
		i.report.Error(i.authority(), "spec.revoked", "%d keys are revoked, and bundles have room for %d. Where so many leaked, `meshless issue --replace-ca` takes the trust from all at once; if nobody revoked "+
			"them, restore the state from Git", n, maxRevoked)
	}
	return n > maxRevoked
}

// recoverRevoked keeps what the bundles still list as revoked and the CertificateAuthority does not: after a merge or a
// revert of one of them, or when the object is lost. A revocation is not taken back by that. How long such a key
// matters is not known: as long as an authority that can have signed it.
func (i *issuer) recoverRevoked(known certs.Revocations, lost []string, bundle []*x509.Certificate) certs.Revocations {
	for _, key := range lost {
		i.report.Warn(i.authority(), "spec.revoked", "key %s is revoked in the bundles and not in the CertificateAuthority, as after a merge or a revert of one of them; it stays revoked", key)
		known = append(known, v1alpha1.RevokedKey{Key: key, Until: metav1.NewTime(latestExpiry(bundle))})
	}
	return known
}

// listedKeys are the digests that the bundles of the state repeat.
func (i *issuer) listedKeys() []string {
	var keys []string
	for _, item := range i.model.State.Bundles {
		for _, key := range certs.ParseDigests(item.GetAnnotations()[api.RevokedAnnotation]) {
			if err := meshmap.ValidateKeyDigest(key); err != nil {
				i.report.ErrorIn(item, report.Annotation(api.RevokedAnnotation), "%v; restore it from Git", err)
				break
			}
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// revokeNamed makes the revocations that this run is asked for.
func (i *issuer) revokeNamed(bundle []*x509.Certificate) []v1alpha1.RevokedKey {
	var out []v1alpha1.RevokedKey
	var names []string
	for _, name := range i.Actions.Revoke {
		if meshmap.ValidateKeyDigest(name) != nil {
			names = append(names, name)
			continue
		}
		if n := slices.IndexFunc(bundle, func(ca *x509.Certificate) bool { return svid.KeyDigest(ca) == name }); n >= 0 {
			i.report.Error(i.authority(), "spec.revoked", "revoke: %s is the key of authority %q: every certificate would be refused at once, new ones too. `meshless issue --replace-ca` replaces the authorities without an outage",
				name, bundle[n].Subject.CommonName)
			continue
		}
		key := v1alpha1.RevokedKey{Key: name, Until: metav1.NewTime(latestExpiry(bundle))}
		for _, leaf := range i.leaves {
			if svid.KeyDigest(leaf) == name {
				key = certs.Revoke(leaf)
			}
		}
		out = append(out, key)
	}
	for w := range i.workloadsOf(names, "revoke") {
		leaf := leafOf(i.model.State.Leaves[w.ID.String()])
		if leaf == nil {
			i.report.Error(w.Object, w.Part(), "has no certificate here whose key could be revoked. One of a Secret of its own is revoked by the digest of its key: openssl x509 -in tls.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum")
			continue
		}
		out = append(out, certs.Revoke(leaf))
	}
	return out
}

// reportRevoked says what came of the keys that this run was asked for. It speaks last: a run that fails has revoked
// nothing.
func (i *issuer) reportRevoked(r revocation) {
	if i.report.Failed() {
		return
	}
	for _, key := range r.asked {
		listed := r.kept[slices.IndexFunc(r.kept, func(k v1alpha1.RevokedKey) bool { return k.Key == key.Key })]
		until := listed.Until.UTC().Format(time.RFC3339)
		switch {
		case slices.Contains(r.before.Digests(), key.Key):
			i.report.Info(i.authority(), "spec.revoked", "key %s of %s is revoked already, and listed until %s", key.Key, orUnknown(listed.SPIFFEID), until)
		case listed.SPIFFEID == "":
			i.report.Info(i.authority(), "spec.revoked", "key %s is revoked: peers refuse it as soon as this is synced, and it is listed until %s, when the authorities have expired, since whose it is is not known here", key.Key, until)
		default:
			i.report.Info(i.authority(), "spec.revoked", "key %s of %s is revoked: peers refuse it as soon as this is synced, and it is listed until %s, a day after its last certificate has expired", key.Key, listed.SPIFFEID, until)
		}
	}
}

func orUnknown(id string) string { return cmp.Or(id, "a workload that is not in the input") }

// workloadsOf finds workloads by "kind/name" or "namespace/kind/name", in any case of the kind.
func (i *issuer) workloadsOf(names []string, flag string) map[*manifest.Workload]bool {
	found := map[*manifest.Workload]bool{}
	for _, name := range names {
		var matches []*manifest.Workload
		for _, w := range i.model.Workloads {
			short := strings.ToLower(w.Kind) + "/" + w.Name
			if wanted := lowerKind(name); wanted == short || wanted == w.Namespace+"/"+short {
				matches = append(matches, w)
			}
		}
		switch {
		case len(matches) == 0:
			i.report.Error(i.authority(), "spec.revoked", "%s: %q is no workload of the mesh here, nor the digest of a key (64 lower-case hexadecimal digits): give kind/name or namespace/kind/name, of %s", flag, name, i.workloadNames())
		case len(matches) > 1:
			i.report.Error(i.authority(), "spec.revoked", "%s: %q is in %d namespaces: give namespace/kind/name", flag, name, len(matches))
		default:
			found[matches[0]] = true
		}
	}
	return found
}

// workloadNames lists the first workloads by the names that commands take.
func (i *issuer) workloadNames() string {
	const few = 8
	var names []string
	for _, w := range i.model.Workloads[:min(few, len(i.model.Workloads))] {
		names = append(names, strings.ToLower(w.Kind)+"/"+w.Name)
	}
	if len(i.model.Workloads) > few {
		names = append(names, "...")
	}
	return strings.Join(names, ", ")
}

// lowerKind is a name of a workload with its kind in lower case.
func lowerKind(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) >= 2 {
		parts[len(parts)-2] = strings.ToLower(parts[len(parts)-2])
	}
	return strings.Join(parts, "/")
}

// leavesOf are the certificates of the state that can be read.
func leavesOf(state manifest.State) []*x509.Certificate {
	var leaves []*x509.Certificate
	for _, secret := range state.Leaves {
		if leaf := leafOf(secret); leaf != nil {
			leaves = append(leaves, leaf)
		}
	}
	return leaves
}

// leafOf reads the certificate of a Secret of the state; nil where there is none that can be read.
func leafOf(secret *yaml.RNode) *x509.Certificate {
	if secret == nil {
		return nil
	}
	certificates, err := svid.ParseCertificates([]byte(node.SecretData(secret)[api.LeafFile]))
	if err != nil {
		return nil
	}
	return certificates[0]
}
