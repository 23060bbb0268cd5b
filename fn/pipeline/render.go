// Package pipeline renders: it prepares and reads the items, issues, injects, writes and verifies. Each step but the
// first and the writing is a package of its own. The output depends on the input, the time and the CA identity alone. A
// failed render has no output.
package pipeline

import (
	"slices"
	"time"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/controlplane"
	"github.com/meshless-dev/meshless/fn/hold"
	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/issue"
	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/retarget"
	"github.com/meshless-dev/meshless/fn/verify"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
)

// Mode is what becomes of a render's result.
type Mode int

// The modes. Build makes no certificates, and the config may forbid it to the others: an engine that renders at sync
// time would else mint new ones at every sync. A new object that is stored says in an annotation which file it belongs
// into.
const (
	Build        Mode = iota // it is applied, or dropped
	Store                    // it is stored where the next render sees it
	StoreOrCheck             // it is stored; with issuance Never the render is a check: whatever it changes is an error
)

// issuing is what a mode means for package issue.
func (m Mode) issuing(spec v1alpha1.Spec) issue.Mode {
	switch {
	case m == Build:
		return issue.NotStored
	case spec.Issuance == v1alpha1.IssuanceNever:
		return issue.Forbidden
	}
	return issue.Issue
}

// issuing is what a render may do. kpt shows the function the package alone: one whose CertificateAuthority lies beside
// it, since others share it, is rendered without issuing.
func (o Options) issuing(m *manifest.Model) issue.Mode {
	mode := o.Mode.issuing(m.Spec)
	if mode == issue.Issue && o.Mode == StoreOrCheck && m.SharedCA && m.State.Authority == nil && !m.Spec.UsesCertManager() {
		return issue.Elsewhere
	}
	return mode
}

// Options are what a render depends on beside its input.
type Options struct {
	Now        time.Time
	Mode       Mode
	Actions    issue.Actions
	Namespace  string                         // that the outermost kustomization sets on every object, or ""
	AllowEmpty bool                           // certificates may go although their workloads are gone, all of them
	SharedCA   bool                           // see issue.Options
	CAIdentity func() ([]age.Identity, error) // see issue.Options
	// MayConsume lets the render edit the given nodes instead of copies, for callers that do not need them any more: a
	// large package then takes half the memory.
	MayConsume bool
	// Progress, unless nil, is called before each workload of a step that takes long, for people who wait.
	Progress func(step string, done, total int)
}

func (o Options) progress(step string, done, total int) {
	if o.Progress != nil {
		o.Progress(step, done, total)
	}
}

// Run renders the items and returns the new list; the given nodes are not changed unless it may consume them. Findings
// go to the report; when it has an error, the result is nil.
func Run(items []*yaml.RNode, config *v1alpha1.MutualTLS, o Options, r *report.Report) []*yaml.RNode {
	r.ConfigIs(report.Object{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindMutualTLS, Namespace: config.Namespace, Name: config.Name})
	recipients := issue.ParseRecipients(config, r)
	kinds := manifest.KindsOf(config.Spec)
	check := o.Mode == StoreOrCheck && config.Spec.Issuance == v1alpha1.IssuanceNever
	items = slices.DeleteFunc(slices.Clone(items), manifest.IsTripwire) // the function runs
	given := items
	r.Locate(given)
	items, injected, passed := prepare(items, kinds, o.MayConsume && !check, r)
	if r.Failed() {
		return nil
	}
	r.Locate(items) // the copies, whose fields findings are about from now on
	m := manifest.Build(controlplane.Apply(manifest.Flatten(items), config.Spec.TLS, r), config.Spec, r)
	var policies map[*manifest.Workload]meshmap.Policy
	if m != nil {
		m.PassedBefore = passed
		lint.Check(m, r)
		policies = policy.Compile(m, r)
	}
	if r.Failed() {
		return nil
	}
	checkVisible(m, injected, r)
	checkNamespaces(m, items, o.Namespace, r)
	if !o.AllowEmpty {
		refuseEmptied(m, r)
	}
	m.ReadShared(o.SharedCA)
	if m.RefuseSharedNames(manifest.Flatten(items), r); r.Failed() {
		return nil // before anything is issued
	}
	held := hold.Templates(m, r)
	meshes := m.Meshes(policies, r)
	if r.Failed() {
		return nil
	}
	direct := retarget.Apply(m, manifest.Flatten(items), r)
	issued := issue.Run(m, recipients, issue.Options{Now: o.Now, Mode: o.issuing(m), Actions: o.Actions, SharedCA: o.SharedCA, CAIdentity: o.CAIdentity,
		Progress: func(done, total int) { o.progress("certifying", done, total) }}, r)
	if r.Failed() {
		return nil
	}
	if checkFederation(m, issued.Bundle, o.Now, r); r.Failed() {
		return nil
	}
	shared := &node.Shared{}
	for i, w := range m.Workloads {
		o.progress("injecting", i, len(m.Workloads))
		refuse := func(field string, err error) { r.Error(w.Object, w.Field(field), "%v", err) }
		if err := inject.Apply(w.Template(), &w.Pod, w.Plan, shared, refuse); err != nil {
			r.Error(w.Object, w.Field("spec"), "%v", err)
		}
	}
	for _, mesh := range meshes {
		mesh.RevokedKeys = issued.RevokedKeys
	}
	out := &output{model: m, place: o.Mode != Build, items: items, held: held, direct: direct}
	out.write(config, meshes, issued, r)
	if r.Failed() {
		return nil
	}
	verify.Rendered(out.items, kinds, o.Now, r)
	if check {
		refuseChanges(given, out.items, r)
	}
	if r.Failed() {
		return nil
	}
	return out.items
}

// prepare copies the items and takes earlier injections out of their workloads, of which it returns those that had one,
// and which ports they passed TLS of the app's own on. Services and NetworkPolicies are led back to the app's ports.
func prepare(items []*yaml.RNode, kinds manifest.Kinds, consume bool, r *report.Report) (copies, injected []*yaml.RNode, passed map[manifest.Place]netset.Ports) {
	passed = map[manifest.Place]netset.Ports{}
	for _, item := range items {
		if err := node.CheckItem(item); err != nil {
			r.ErrorIn(item, "", "%v", err)
			continue
		}
		if !consume {
			item = item.Copy()
		}
		copies = append(copies, item)
		if err := resolveAliases(item, kinds); err != nil {
			r.ErrorIn(item, "", "its YAML aliases cannot be resolved: %v", err)
			continue
		}
		for _, part := range manifest.Flatten([]*yaml.RNode{item}) {
			if err := node.CheckItem(part); err != nil {
				r.ErrorIn(item, "items", "%v", err)
				continue
			}
			refuseHiddenState(item, part, r)
			if err := retarget.Strip(part); err != nil {
				r.ErrorIn(part, "metadata.annotations", "%v", err)
			}
			templates, _ := kinds.Find(part) // also what an earlier config named: it is taken out again
			for _, t := range templates {
				if inject.Injected(part, t.Path) {
					injected = append(injected, part)
					passed[manifest.Place{Object: manifest.Key(report.ObjectOf(part)), Field: t.Field()}] = manifest.PassedBefore(part, t.Path)
				}
				if err := inject.Strip(part, t.Path); err != nil {
					r.ErrorIn(part, t.Field(), "%v", err)
				}
			}
		}
	}
	return copies, injected, passed
}

// refuseHiddenState refuses state inside a List: it is removed and written one object at a time.
func refuseHiddenState(item, part *yaml.RNode, r *report.Report) {
	if item != part && (part.GetKind() == v1alpha1.KindCertificateAuthority || part.GetAnnotations()[api.IdentityAnnotation] != "") {
		r.ErrorIn(part, "", "is state of meshless inside a List; write it as a document of its own")
	}
}

// resolveAliases writes YAML aliases out where a workload may be edited.
func resolveAliases(item *yaml.RNode, kinds manifest.Kinds) error {
	if _, workload := kinds.Templates(item); workload || item.GetKind() == "List" {
		return node.ResolveAliases(item)
	}
	return nil
}

// checkVisible refuses to start anew where an earlier render left its mark: then the state exists and is hidden, as by
// a selector of kpt.
func checkVisible(m *manifest.Model, injected []*yaml.RNode, r *report.Report) {
	if len(injected) == 0 || m.State.Authority != nil || len(m.State.Leaves) > 0 || len(m.State.Bundles) > 0 {
		return
	}
	if m.Spec.UsesCertManager() || len(m.State.Certificates) > 0 { // derived, and nothing to start anew
		return
	}
	r.ErrorIn(injected[0], "", "was injected by an earlier render, whose state (Secrets, ConfigMaps and CertificateAuthority with the annotation %s) is not in the input; "+
		"run the function on the whole package, without selectors, or restore the state from Git", api.IdentityAnnotation)
}

// refuseChanges reports what a render changed of its input. With issuance: Never the function is a check of what lies
// in Git (a validator of kpt, whose output is dropped), so whatever is left to do is an error.
func refuseChanges(before, after []*yaml.RNode, r *report.Report) {
	const way = "With issuance Never nothing is changed: run the mutator (`kpt fn render`) or `meshless issue` with a config that issues, and commit what they write"
	if item := missingFrom(before, after); item != nil {
		r.ErrorIn(item, "", "is not what a render leaves. %s", way)
	} else if item := missingFrom(after, before); item != nil {
		r.ErrorIn(item, "", "is not needed by any workload. %s", way)
	}
}

// missingFrom returns the first of the items whose text none of the others has.
func missingFrom(others, items []*yaml.RNode) *yaml.RNode {
	texts := map[string]bool{}
	for _, item := range others {
		texts[item.MustString()] = true
	}
	for _, item := range items {
		if !texts[item.MustString()] {
			return item
		}
	}
	return nil
}
