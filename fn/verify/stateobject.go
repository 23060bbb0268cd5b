package verify

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// shape is what a render writes into one kind of state object, beside what it says. Labels and annotations of others
// are welcome: a kustomization puts its own on everything.
type shape struct {
	apiVersion, name string
	fields           []string // beside apiVersion, kind and metadata
	data             []string
	kind             string // the field type of a Secret
}

// shaped reports fields of a state object that a render does not write. Some of them are worse than noise: immutable:
// true keeps the next renewal from being applied.
func (c *checker) shaped(item *yaml.RNode, s shape) {
	object := report.ObjectOf(item)
	wrong := func(field, have, want string) {
		if have != want {
			c.report.Error(object, field, "is %q, and must be %q; restore the object from Git, or render again", have, want)
		}
	}
	wrong("apiVersion", object.APIVersion, s.apiVersion)
	wrong("metadata.name", object.Name, s.name)
	c.applied(item)
	only := func(at *yaml.Node, prefix string, allowed ...string) {
		if at == nil {
			return
		}
		for i := 0; i+1 < len(at.Content); i += 2 {
			if key := at.Content[i].Value; !slices.Contains(allowed, key) {
				c.report.Error(object, prefix+key, "is no field that a render writes; take it out, or restore the object from Git")
			}
		}
	}
	only(item.YNode(), "", append([]string{"apiVersion", "kind", "metadata"}, s.fields...)...)
	only(node.Get(item.YNode(), "metadata"), "metadata.", "name", "namespace", "labels", "annotations")
	only(node.Get(item.YNode(), "data"), "data.", s.data...)
	if s.kind != "" {
		kind, _ := item.GetString("type")
		wrong("type", kind, s.kind)
	}
}

// unapplied are annotations, or labels, by which tools do not apply an object, or apply it once alone.
var unapplied = []struct{ key, value, tool string }{
	{manifest.LocalConfigAnnotation, "true", "kustomize, `kpt live`"},
	{"argocd.argoproj.io/hook", "Skip", "Argo CD"},
	{"kustomize.toolkit.fluxcd.io/reconcile", "disabled", "Flux"},
	{"kustomize.toolkit.fluxcd.io/ssa", "Ignore", "Flux"},
	{"kustomize.toolkit.fluxcd.io/ssa", "IfNotPresent", "Flux"},
}

// applied reports a state object that looks right and does not reach the cluster, or whose next change does not.
func (c *checker) applied(item *yaml.RNode) {
	annotations, labels := item.GetAnnotations(), item.GetLabels()
	for _, u := range unapplied {
		if strings.EqualFold(annotations[u.key], u.value) || strings.EqualFold(labels[u.key], u.value) {
			c.report.ErrorIn(item, report.Annotation(u.key), "keeps it from being applied (%s), and the mesh needs it; take the annotation or label out, or restore the object from Git", u.tool)
		}
	}
}

// record holds what the annotations of a Secret say of its leaf against the certificate.
func (c *checker) record(item *yaml.RNode, record certs.Record, leaf Leaf) {
	cert, annotations := leaf.Certificate, item.GetAnnotations()
	wrong := func(key, format string, args ...any) {
		c.report.Error(leaf.Secret, report.Annotation(key), format+"; restore the Secret from Git", args...)
	}
	if have, want := annotations[api.NotAfterAnnotation], cert.NotAfter.UTC().Format(time.RFC3339); have != want {
		wrong(api.NotAfterAnnotation, "is %q, and the certificate expires at %s", have, want)
	}
	if have, written := annotations[api.RenewAfterAnnotation]; written && (!record.RenewAfter.After(cert.NotBefore) || !record.RenewAfter.Before(cert.NotAfter)) {
		wrong(api.RenewAfterAnnotation, "is %q, and must be a time within the life of the certificate", have)
	}
	if record.Recipients == "" {
		wrong(api.RecipientsAnnotation, "is missing: it says to whom the key is sealed")
	}
}

// certificates holds the Certificates of cert-manager against the Services of their workloads, and against each other:
// one config asks for all of them.
func (c *checker) certificates(workloads []*manifest.Workload) {
	names := map[string][]string{} // by identity
	for _, w := range workloads {
		names[w.ID.String()] = w.DNSNames()
	}
	var first map[string]any
	for _, m := range c.managedSpecs {
		want := map[string]any{}
		maps.Copy(want, m.spec)
		if list := names[m.identity]; len(list) > 0 {
			want["dnsNames"] = anys(list)
		} else {
			delete(want, "dnsNames")
		}
		if first == nil {
			first = m.spec
		}
		for _, key := range []string{"duration", "renewBefore", "privateKey", "issuerRef", "usages", "isCA"} {
			want[key] = first[key]
		}
		for key := range want {
			if !slices.Contains(certificateFields, key) {
				delete(want, key)
			}
		}
		for _, d := range compare("spec", m.spec, want) {
			c.report.Error(m.object, d.path, "%s, as its Services and the mesh's other Certificates say; render the whole package again", d)
		}
		for _, key := range []string{"duration", "renewBefore", "isCA"} {
			if m.spec[key] == nil {
				c.report.Error(m.object, "spec."+key, "is missing; render the whole package again")
			}
		}
		if key, _ := m.spec["privateKey"].(map[string]any); key["algorithm"] == nil {
			c.report.Error(m.object, "spec.privateKey.algorithm", "is missing; render the whole package again")
		}
	}
}

// named warns of leaves that name other Services than those that lead to their workload: a client that knows a Service
// by its name alone takes the leaf's word for it.
func (c *checker) named(workloads []*manifest.Workload) {
	if !c.options.EveryWorkload {
		return
	}
	names := map[string][]string{} // by identity
	for _, w := range workloads {
		names[w.ID.String()] = w.DNSNames()
	}
	for _, leaf := range c.leaves {
		want, known := names[leaf.Identity]
		if leaf.Certificate == nil || !known {
			continue
		}
		if have := slices.Sorted(slices.Values(leaf.Certificate.DNSNames)); !slices.Equal(have, want) {
			c.report.Warn(leaf.Secret, report.Data(api.LeafFile), "names the Services %s, and those that lead to its workload are %s; run `meshless issue` and commit the result",
				cmp.Or(strings.Join(have, ", "), "none"), cmp.Or(strings.Join(want, ", "), "none"))
		}
	}
}

// certificateFields are those of the spec of a Certificate that a render writes.
var certificateFields = []string{"secretName", "issuerRef", "isCA", "uris", "dnsNames", "usages", "privateKey", "duration", "renewBefore"}

// managedCertificate is a Certificate of cert-manager as it stands in the input.
type managedCertificate struct {
	object   report.Object
	identity string
	spec     map[string]any
}

// certificateName is what a render calls the Certificate of an identity; "" for one that no render made.
func certificateName(identity string) string {
	parts := strings.Split(identity, "/")
	if len(parts) < 2 {
		return ""
	}
	w := manifest.Workload{Kind: parts[len(parts)-2], Name: parts[len(parts)-1]}
	return w.SecretName()
}
