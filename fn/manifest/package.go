package manifest

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// nameLength is that of the name of a package: 25 bits, since few packages have workloads in one namespace.
const nameLength = 5

// packageName is the name of the package: that of the state, or a new one. A new one is a digest of what no two
// packages in one namespace have alike, the config's name and the identities; it stays when these change. Before there
// are workloads' certificates of this edition, those of the state are the identities: a build that stores nothing and
// the issue after it then make the same name. With cert-manager there is no state, and the config's name alone counts.
func (m *Model) packageName(r *report.Report) string {
	if m.Spec.UsesCertManager() {
		return digestName(r.Config().Name)
	}
	m.refuseNeighbours(r)
	for _, item := range slices.Concat(m.State.Bundles, m.State.Meshes) {
		name := item.GetAnnotations()[api.PackageAnnotation]
		if name == "" {
			continue
		}
		if !validPackage(name) {
			r.ErrorIn(item, report.Annotation(api.PackageAnnotation), "%q is not the name of a package: lower-case letters, digits and dashes, at most %d; restore the object from Git", name, api.MaxPackage)
		}
		return name
	}
	var ids []string
	for id := range m.State.Leaves {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		for _, w := range m.Workloads {
			ids = append(ids, w.ID.String())
		}
	}
	slices.Sort(ids)
	return digestName(append([]string{r.Config().Name}, ids...)...)
}

// refuseNeighbours refuses two bundles of different packages in one namespace: one is a neighbour's, as when state is
// fetched from a cluster, and its name and authorities would become those of this package.
func (m *Model) refuseNeighbours(r *report.Report) {
	seen := map[string]*yaml.RNode{}
	for _, item := range m.State.Bundles {
		name, namespace := item.GetAnnotations()[api.PackageAnnotation], NamespaceOf(item)
		if name == "" {
			continue
		}
		if other := seen[namespace]; other != nil && other.GetAnnotations()[api.PackageAnnotation] != name {
			r.ErrorIn(item, report.Annotation(api.PackageAnnotation), "is %q, and that of %s is %q: the state of two packages. Take out that of the other; if they became one, the bundles of either",
				name, report.ObjectOf(other), other.GetAnnotations()[api.PackageAnnotation])
		}
		seen[namespace] = item
	}
}

func validPackage(name string) bool {
	return len(name) <= api.MaxPackage && len(validation.IsDNS1123Label(name)) == 0
}

// digestName is a name that begins with a letter, so that no YAML takes it for a number.
func digestName(parts ...string) string {
	digest := sha256.Sum256([]byte("meshless package\n" + strings.Join(parts, "\n")))
	text := strings.ToLower(base32.StdEncoding.EncodeToString(digest[:]))
	return text[strings.IndexFunc(text, unicode.IsLetter):][:nameLength]
}

// ReadShared tells whether other packages have the same authority: cert-manager signs for all of them, or the
// CertificateAuthority is that of --ca. A render that does not see it knows by the bundles, which were written by one
// that did.
func (m *Model) ReadShared(shared bool) {
	marked := func(item *yaml.RNode) bool { return item.GetAnnotations()[api.SharedAnnotation] == "true" }
	m.SharedCA = m.Spec.UsesCertManager() || shared || m.State.Authority == nil && slices.ContainsFunc(m.State.Bundles, marked)
}

// refuseLabel refuses the labels of ours where no injection stands beside them: clients would take the pod for one of
// the mesh, and NetworkPolicies for one whose ports they open.
func refuseLabel(w *Workload, r *report.Report) {
	for _, label := range []string{api.PackageLabel, api.DirectLabel} {
		if has(w.Pod.Labels, label) {
			r.Error(w.Object, w.Field(fmt.Sprintf("metadata.labels[%s]", label)), "is written by a render into pods of the mesh, and by nobody else; take it out")
		}
	}
}
