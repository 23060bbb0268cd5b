package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// AnyMember is the pattern of the identities of all workloads of a trust domain.
func AnyMember(trustDomain string) string { return "spiffe://" + trustDomain + "/ns/*/*/*" }

// Match is how labels, of which some may not be known, meet a selector.
type Match int

// The kinds of Match.
const (
	NoMatch Match = iota
	UnknownMatch
	FullMatch
)

// MatchLabels compares a selector with labels; missing tells of a label that is not there whether it may be, in the
// cluster.
func MatchLabels(s labels.Selector, have labels.Set, missing func(key string) bool) Match {
	requirements, some := s.Requirements()
	if !some {
		return NoMatch
	}
	result := FullMatch
	for _, requirement := range requirements {
		switch key := requirement.Key(); {
		case !have.Has(key) && missing(key):
			result = UnknownMatch
		case !requirement.Matches(have):
			return NoMatch
		}
	}
	return result
}

// MatchPod tells whether a selector selects the pods of a workload.
func MatchPod(s labels.Selector, w *manifest.Workload) Match {
	missing := func(key string) bool { return manifest.AtRuntime(w.Kind, key) }
	return MatchLabels(s, labels.Set(w.CertainLabels()), missing)
}

// peerFinder finds the identities that the peers of NetworkPolicies mean.
type peerFinder struct {
	model     *manifest.Model
	report    *report.Report
	workloads map[string][]*manifest.Workload // of the mesh, by namespace
	spaces    []string                        // namespaces that the input holds or names, sorted
}

func newPeerFinder(m *manifest.Model, r *report.Report) *peerFinder {
	f := &peerFinder{model: m, report: r, workloads: map[string][]*manifest.Workload{}}
	spaces := sets.KeySet(m.NamespaceObjects)
	for _, w := range m.Workloads {
		f.workloads[w.Namespace] = append(f.workloads[w.Namespace], w)
	}
	for _, w := range slices.Concat(m.Workloads, m.Outside) {
		spaces.Insert(w.Namespace)
	}
	f.spaces = sets.List(spaces)
	return f
}

// find returns the patterns of all peers of one rule; no peers means everyone.
func (f *peerFinder) find(p *networkPolicy, field string, peers []networkingv1.NetworkPolicyPeer) []string {
	if len(peers) == 0 {
		return []string{AnyMember(f.model.TrustDomain.Name())}
	}
	var ids []string
	for i, peer := range peers {
		l := &lookup{peerFinder: f, policy: p, field: fmt.Sprintf("%s.from[%d]", field, i)}
		ids = append(ids, l.patterns(peer)...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// lookup is the search for one peer.
type lookup struct {
	*peerFinder
	policy *networkPolicy
	field  string
	warned bool
}

// warn says what of the peer nobody can tell of an identity.
func (l *lookup) warn(format string, args ...any) {
	l.report.Warn(l.policy.object, l.field, format, args...)
	l.warned = true
}

// patterns are those of the identities that the peer means.
func (l *lookup) patterns(peer networkingv1.NetworkPolicyPeer) []string {
	if peer.IPBlock != nil {
		l.warn("lets nobody in: the ipBlock %s is an address, and an address is no identity. Write who may connect into spec.authorization.rules; clients without an identity need a permissive or an "+
			"excluded port", peer.IPBlock.CIDR)
		return nil
	}
	pods := labels.Everything()
	if peer.PodSelector != nil {
		pods = l.selector(peer.PodSelector)
	}
	spaces, named := []string{l.policy.namespace}, false
	if peer.NamespaceSelector != nil {
		selector := withoutCertain(l.selector(peer.NamespaceSelector))
		if selector.Empty() && pods.Empty() {
			return []string{AnyMember(l.model.TrustDomain.Name())}
		}
		spaces, named = l.namespaces(selector, pods)
	}
	var ids, empty []string
	for _, space := range spaces {
		members := l.members(space, pods)
		if len(members) == 0 && named {
			empty = append(empty, space)
		}
		ids = append(ids, members...)
	}
	switch {
	case l.warned:
	case len(empty) > 0:
		l.warn("lets nobody of namespace %s in: no workload of the mesh in the input has these labels there, and of pods that are not in the input nobody can tell. Leave the podSelector out, or "+
			"write the spiffeID into spec.authorization.rules", strings.Join(empty, ", "))
	case len(ids) == 0:
		l.warn("lets nobody in: it selects no workload of the mesh in the input. What is in another package is let in by a namespaceSelector with %s alone, or by its spiffeID in spec.authorization.rules",
			corev1.LabelMetadataName)
	}
	return ids
}

// selector reads a selector that networkPolicy.check has read before.
func (l *lookup) selector(s *metav1.LabelSelector) labels.Selector {
	selector, ok := readSelector(s, l.policy.object, l.field, l.report)
	if !ok {
		return labels.Nothing()
	}
	return selector
}

// withoutCertain leaves requirements out that every namespace meets.
func withoutCertain(s labels.Selector) labels.Selector {
	requirements, some := s.Requirements()
	if !some {
		return s
	}
	out := labels.NewSelector()
	for _, requirement := range requirements {
		if requirement.Key() != corev1.LabelMetadataName || requirement.Operator() != selection.Exists {
			out = out.Add(requirement)
		}
	}
	return out
}

// namespaces are those that a selector selects, and whether it names them, so that they need not be in the input. The
// labels of a namespace are those of its Namespace object; without one its name alone is known. Pods are whom the peer
// means there.
func (l *lookup) namespaces(s, pods labels.Selector) (selected []string, named bool) {
	candidates := l.spaces
	requirements, _ := s.Requirements()
	for _, requirement := range requirements {
		op := requirement.Operator()
		if requirement.Key() == corev1.LabelMetadataName && (op == selection.In || op == selection.Equals || op == selection.DoubleEquals) {
			candidates, named = slices.Sorted(maps.Keys(requirement.Values())), true
		}
	}
	var untold []string
	for _, name := range candidates {
		if len(validation.IsDNS1123Label(name)) > 0 {
			continue // no namespace is called so, and "*" would be a pattern
		}
		object, known := l.model.NamespaceObjects[name]
		have := labels.Merge(object.Labels, labels.Set{corev1.LabelMetadataName: name})
		switch MatchLabels(s, have, func(string) bool { return !known }) {
		case FullMatch:
			selected = append(selected, name)
		case UnknownMatch:
			if pods.Empty() || slices.ContainsFunc(l.workloads[name], func(w *manifest.Workload) bool { return MatchPod(pods, w) != NoMatch }) {
				untold = append(untold, name)
			}
		}
	}
	if len(untold) > 0 {
		l.warn("lets nobody of namespace %s in: what its labels are is not known, since the Namespace object is not in the input (nor is any namespace of another package found by labels). Add it, or select by %s", strings.Join(untold, ", "), corev1.LabelMetadataName)
	}
	return selected, named
}

// members are the identities of the workloads of a namespace that a selector selects. An empty selector needs none of
// them: one pattern is the whole namespace, also of what is in another package.
func (l *lookup) members(namespace string, pods labels.Selector) []string {
	if pods.Empty() {
		return []string{fmt.Sprintf("spiffe://%s/ns/%s/*/*", l.model.TrustDomain.Name(), namespace)}
	}
	var ids []string
	for _, w := range l.workloads[namespace] {
		switch MatchPod(pods, w) {
		case FullMatch:
			ids = append(ids, w.ID.String())
		case UnknownMatch:
			l.warn("does not let %s in: it selects its pods by a label that they get at run time only, and they have one identity. Select by labels of the pod template, or write the spiffeID into "+
				"spec.authorization.rules", w.Object)
		}
	}
	return ids
}
