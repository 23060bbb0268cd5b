package retarget

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// service leads the ports of a Service to the proxies of the workloads behind it.
//
// A headless Service is left alone: DNS gives its clients the addresses of pods, so no port of the Service comes into
// it, and proxies know of its direct ports from the mesh map.
func (a *applier) service(item *yaml.RNode) {
	s, ok := decode[corev1.Service](item, a.report)
	if !ok || s.Spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	headless := manifest.Headless(s)
	behind := a.find.Workloads(s)
	none, other := split(behind)
	object := report.ObjectOf(item)
	switch ports := slices.ContainsFunc(s.Spec.Ports, isTCP); {
	case len(none) == 0 || !ports && !headless:
		return
	case other != nil:
		a.report.Error(object, "spec.selector", "leads to %s, which has no redirect rules, and to %s, which %s: one is reached at another port than the other, and clients could not tell which answers. "+
			"Narrow the selector, name whom it leads to (annotation %s), or give both the same mode (%s)", none[0].Object, other.Object, otherwise(other), api.WorkloadsAnnotation, api.RedirectAnnotation)
		return
	case headless:
		return
	case len(s.Spec.Selector) == 0:
		a.report.Error(object, "spec.selector", "is missing, and the annotation %s says that it leads to %s, which has no redirect rules: whoever writes its EndpointSlices leads clients past the proxy. "+
			"Give it a selector, make it headless (clusterIP: None), or give the workload redirect rules (%s: Rules)", api.WorkloadsAnnotation, none[0].Object, api.RedirectAnnotation)
		return
	}
	targets := map[int]uint16{} // by the index of the port
	for i, p := range s.Spec.Ports {
		if target := a.target(object, i, p, none); target != 0 {
			targets[i] = target
		}
	}
	if len(targets) > 0 {
		if err := lead(item, targets); err != nil {
			a.report.Error(object, "spec.ports", "%v", err)
		}
	}
}

// split tells the workloads without redirect rules apart, and returns one of the others, or nil.
func split(behind []*manifest.Workload) (none []*manifest.Workload, other *manifest.Workload) {
	for _, w := range behind {
		if w.Plan != nil && w.Plan.NoRedirect() {
			none = append(none, w)
		} else if other == nil {
			other = w
		}
	}
	return none, other
}

func otherwise(w *manifest.Workload) string {
	if w.Plan == nil {
		return "is not in the mesh"
	}
	return "has some"
}

func isTCP(p corev1.ServicePort) bool { return manifest.IsTCP(p.Protocol) }

// target is the port to which a port of a Service must lead; 0 where it is left alone: nobody has the named port, or
// the port does not pass the proxy.
func (a *applier) target(object report.Object, i int, p corev1.ServicePort, behind []*manifest.Workload) uint16 {
	if !isTCP(p) {
		return 0
	}
	field := fmt.Sprintf("spec.ports[%d].targetPort", i)
	var first *manifest.Workload
	var at, number uint16 // where the proxies take it, and what it is in the first workload
	for _, w := range behind {
		target := manifest.TargetPort(p, w)
		if target == 0 || proxyPorts(w).Contains(target) {
			continue
		}
		if !direct(w).Ports.Contains(target) {
			a.report.Error(object, field, "leads to port %d of %s, which its proxy does not take; write the port into the ports of its container", target, w.Object)
			return 0
		}
		if first == nil {
			first, at, number = w, api.DirectPort(target), target
		} else if api.DirectPort(target) != at {
			a.report.Error(object, field, "is port %d of %s and port %d of %s, neither of which has redirect rules: the Service can lead to one number alone. "+
				"Give the port the same number in both, or a Service to each of them", number, first.Object, target, w.Object)
			return 0
		}
	}
	for _, w := range behind {
		if target := manifest.TargetPort(p, w); first != nil && target != 0 && w.Plan.Redirect.ExcludeInboundPorts.Contains(target) {
			a.report.Error(object, field, "leads to %s, which excludes port %d from the mesh, and to %s, which does not; exclude it everywhere or nowhere", w.Object, target, first.Object)
			return 0
		}
	}
	return at
}

// lead writes target ports, by the index of their ports, and notes what was there: by the number of the port, of which
// a Service has one for TCP, what it was and what it is; what it is alone where there was none.
func lead(item *yaml.RNode, targets map[int]uint16) error {
	if err := node.ResolveAliases(item); err != nil {
		return err
	}
	record := node.Object()
	ports := node.Get(item.YNode(), "spec", "ports")
	for i, port := range ports.Content {
		at, ours := targets[i]
		if !ours {
			continue
		}
		key := node.Scalar(port, "port")
		if node.Index(record, key) >= 0 {
			return fmt.Errorf("has port %s twice for TCP, which Kubernetes refuses", key)
		}
		note := node.List()
		note.Style = yaml.FlowStyle
		is := node.Value(int(at))
		if was := node.Get(port, "targetPort"); was != nil {
			before := *was
			before.HeadComment, before.LineComment, before.FootComment = "", "", ""
			note.Content = append(note.Content, &before)
			if before.Value == "" && before.ShortTag() == yaml.NodeTagNull {
				note.Style = 0 // flow style has no way to write nothing
			}
			was.Value, was.Tag, was.Style = is.Value, is.Tag, 0
		} else {
			insertAt(port, node.Index(port, "port")+1, "targetPort", is)
		}
		note.Content = append(note.Content, node.Value(int(at)))
		node.Set(record, key, note)
	}
	return attach(item, api.TargetPortsAnnotation, record)
}

// stripService undoes lead. A target port that is another now is somebody's, and stays.
func stripService(item *yaml.RNode) error {
	record, err := detach(item, api.TargetPortsAnnotation)
	if record == nil || err != nil {
		return err
	}
	ports := node.Get(item.YNode(), "spec", "ports")
	if ports == nil || ports.Kind != yaml.SequenceNode {
		return nil
	}
	for _, port := range ports.Content {
		note, is := node.Get(record, node.Scalar(port, "port")), node.Get(port, "targetPort")
		if note == nil && is != nil {
			note = renumbered(record, ports, is.Value)
		}
		if note == nil || is == nil || !isTCPNode(port) {
			continue
		}
		if note.Kind != yaml.SequenceNode || len(note.Content) < 1 || len(note.Content) > 2 {
			return errors.New("does not say what the port was: restore the object from Git")
		}
		if now := note.Content[len(note.Content)-1]; is.Kind != yaml.ScalarNode || is.Value != now.Value || !isDirect(is.Value) {
			continue
		}
		if len(note.Content) == 1 {
			node.Drop(port, "targetPort")
			continue
		}
		was := note.Content[0]
		is.Value, is.Tag, is.Style = was.Value, was.Tag, was.Style
	}
	return nil
}

// renumbered is the note of a port of a Service that has another number now, by where it leads; nil where there is
// none. Without it the proxy's own port would be taken for one of the app's.
func renumbered(record, ports *yaml.Node, target string) *yaml.Node {
	for i := 0; i+1 < len(record.Content); i += 2 {
		key, note := record.Content[i].Value, record.Content[i+1]
		gone := !slices.ContainsFunc(ports.Content, func(p *yaml.Node) bool { return isTCPNode(p) && node.Scalar(p, "port") == key })
		if gone && note.Kind == yaml.SequenceNode && len(note.Content) > 0 && note.Content[len(note.Content)-1].Value == target {
			return note
		}
	}
	return nil
}

// isTCPNode tells whether a port of a Service is of TCP.
func isTCPNode(port *yaml.Node) bool {
	return manifest.IsTCP(corev1.Protocol(node.Scalar(port, "protocol")))
}

// isDirect tells whether a text is the number of a port on which proxies without redirect rules may listen.
func isDirect(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && api.IsDirectPort(uint16(n))
}
