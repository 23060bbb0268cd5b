// Package retarget leads what is in front of workloads without redirect rules to their proxies. No rules take what
// arrives there to the proxy, so it listens on a port of its own for each port of the app (api.DirectPort). Services
// lead to these ports, NetworkPolicies open them, and a NetworkPolicy of ours for each workload shuts all others.
//
// Apply edits the Services and NetworkPolicies of the input in place, on YAML nodes, and notes in an annotation what it
// found. Strip takes all of it out again, so that a render of its own output begins with what people wrote. What
// somebody changed since is theirs, and stays.
package retarget

import (
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Policy is the NetworkPolicy of ours for one workload without redirect rules.
type Policy struct {
	Workload *manifest.Workload
	Spec     *yaml.Node // of a NetworkPolicy (networking.k8s.io/v1)
}

// Strip takes out of an item what Apply wrote. On any other item it changes nothing.
func Strip(item *yaml.RNode) error {
	switch {
	case isService(item):
		return stripService(item)
	case isNetworkPolicy(item):
		return stripNetworkPolicy(item)
	}
	return nil
}

// Edited tells whether an item says that Apply wrote into it.
func Edited(item *yaml.RNode) bool {
	annotations := item.GetAnnotations()
	return isService(item) && annotations[api.TargetPortsAnnotation] != "" || isNetworkPolicy(item) && annotations[api.NetworkPolicyAnnotation] != ""
}

// Concerns tells whether an item is one that Apply may edit.
func Concerns(item *yaml.RNode) bool {
	return (isService(item) || isNetworkPolicy(item)) && item.GetAnnotations()[api.IdentityAnnotation] == "" && !manifest.IsLocalConfig(item)
}

// Apply edits the Services and NetworkPolicies among the items, those of Lists one by one (manifest.Flatten), and
// returns the NetworkPolicies of ours, in the order of the model's workloads. The items must be stripped, and the model
// read from them. Without a workload that has no redirect rules, there is nothing to do.
func Apply(m *manifest.Model, items []*yaml.RNode, r *report.Report) []Policy {
	a := &applier{model: m, report: r}
	for _, w := range m.Workloads {
		if w.Plan.NoRedirect() {
			a.workloads = append(a.workloads, w)
		}
	}
	if len(a.workloads) == 0 {
		return nil
	}
	a.find = manifest.NewFinder(m.Workloads, m.Outside)
	for _, item := range items {
		switch {
		case manifest.IsLocalConfig(item):
		case !Concerns(item):
			a.warnOther(item)
		case isService(item):
			a.service(item)
		default:
			a.read(item)
		}
	}
	slices.SortStableFunc(a.policies, func(x, y *networkPolicy) int {
		return strings.Compare(x.namespace+"/"+x.object.Name, y.namespace+"/"+y.object.Name)
	})
	for _, w := range a.workloads {
		a.checkPorts(w)
	}
	a.match()
	for _, p := range a.policies {
		a.edit(p)
	}
	var ours []Policy
	for _, w := range a.workloads {
		ours = append(ours, Policy{w, a.policyOf(w)})
	}
	return ours
}

// applier is one Apply.
type applier struct {
	model     *manifest.Model
	report    *report.Report
	find      *manifest.Finder
	workloads []*manifest.Workload                    // without redirect rules
	policies  []*networkPolicy                        // of the input, by name
	selecting map[*manifest.Workload][]*networkPolicy // that isolate each of them
}

// checkPorts reports a proxy that takes other ports than those that the pod and its Services show: a Service could lead
// to a port on which nobody listens, or to none.
func (a *applier) checkPorts(w *manifest.Workload) {
	shown := manifest.ShownPorts(w).Minus(w.Plan.Redirect.ExcludeInboundPorts)
	if have := w.Plan.Serve.Direct.Ports; have.String() != shown.String() {
		a.report.Error(w.Object, w.Field("spec"), "its proxy takes ports %q of the app (--direct-ports), and its containers and Services show %q; render again", have, shown)
	}
}

// warnOther warns of policies of other kinds, which may open ports of the app that nobody may reach any more.
func (a *applier) warnOther(item *yaml.RNode) {
	kind, namespace := item.GetKind(), manifest.NamespaceOf(item)
	if !strings.HasSuffix(kind, "NetworkPolicy") || isNetworkPolicy(item) {
		return
	}
	if i := slices.IndexFunc(a.workloads, func(w *manifest.Workload) bool { return namespace == "" || w.Namespace == namespace }); i >= 0 {
		a.report.Warn(report.ObjectOf(item), "kind", "is a %s of %s, which a render does not read. %s has no redirect rules: where this opens a port of such a workload, "+
			"open the port on which its proxy takes what is for it as well (--direct-ports; 30080 for 8080)", kind, item.GetApiVersion(), a.workloads[i].Object)
	}
}

func isService(item *yaml.RNode) bool {
	return item.GetApiVersion() == "v1" && item.GetKind() == "Service"
}

func isNetworkPolicy(item *yaml.RNode) bool {
	return manifest.IsDirectPolicy(item)
}

// decode reads an item; what cannot be read is an error.
func decode[T any](item *yaml.RNode, r *report.Report) (T, bool) {
	var object T
	if err := node.Decode(item, &object); err != nil {
		path, message := node.FieldOf(err)
		r.ErrorIn(item, path, "cannot be read: %s", message)
		return object, false
	}
	return object, true
}

// direct are the ports of a workload's app that its proxy takes.
func direct(w *manifest.Workload) *podplan.Direct { return w.Plan.Serve.Direct }
