package admission

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// mutating are the variables of the mutating policy. A pod that has our containers is seen a second time, after other
// mutators: handlers of containers that they have added are rewritten then, and ours take their places again.
func (w *writer) mutating() []variable {
	list := append(common(),
		variable{"rewrites", w.rewrites()},
	)
	list = append(list, w.positions()...)
	list = append(list, variable{"injected", "variables.initAt >= 0"})
	list = append(list, w.resources()...)
	list = append(list, w.commandLines()...)
	return append(list,
		variable{"init", literal(w.parts.Init, "")},
		variable{"proxy", literal(w.parts.Proxy, "")},
		variable{"volume", literal(w.parts.Volume, "")},
		variable{"workload", w.workload()},
	)
}

// rewrites are the handlers that do not lead to the proxy and have to, with their text in workload.json.
func (w *writer) rewrites() string {
	return fmt.Sprintf(`
variables.handlers.filter(h, !h.ours && h.port > 0 && !%s).map(h, {
  "at": h.at, "key": h.key, "kind": h.kind,
  "entry": dyn(%s)
})`, within("h.port", w.plan.Redirect.ExcludeInboundPorts), entry())
}

// workload is the annotation: what all pods have, and the handlers. Those that are there already stay.
func (w *writer) workload() string {
	had := workload
	return fmt.Sprintf(`
size(variables.rewrites) == 0 ? (variables.injected ? %[1]s : %[2]s) :
(variables.injected && %[1]s.endsWith(%[3]s) ?
  %[1]s.substring(0, size(%[1]s) - %[4]d) + ",\n" : %[5]s) +
variables.rewrites.map(h, h.entry).join(",\n") + %[3]s`,
		had, strconv.Quote(w.open+plainEnd), strconv.Quote(handlersEnd), len(handlersEnd), strconv.Quote(w.open+handlersBegin))
}

// mutation is the JSON patch. Handlers come first, as their places are counted before ours are there. A pod that is too
// large stays as it is, and is refused with the reason.
func (w *writer) mutation() string {
	parts := []string{fmt.Sprintf(`variables.rewrites.map(h, [
  JSONPatch{op: "remove", path: h.at + "/" + h.kind},
  JSONPatch{op: "add", path: h.at + "/httpGet", value: {"path": dyn(%s + h.key), "port": dyn(%d)}}
]).flatten()`, strconv.Quote(podplan.HandlerPath("")), api.HealthPort)}
	inject, reorder := w.insertions(), w.moves()
	parts = append(parts,
		"(variables.injected ? (\n  "+strings.Join(reorder, " +\n  ")+"\n) : (\n  "+strings.Join(inject, " +\n  ")+"\n))",
		`(has(object.metadata.annotations) ? [] : [JSONPatch{op: "add", path: "/metadata/annotations", value: {}}])`,
		setKey("annotations", api.WorkloadAnnotation, "variables.workload"),
		`(has(object.metadata.labels) ? [] : [JSONPatch{op: "add", path: "/metadata/labels", value: {}}])`,
		setKey("labels", api.PackageLabel, strconv.Quote(w.parts.Package)))
	if !w.plan.Native {
		parts = append(parts, defaultContainer)
	}
	return "!variables.bounded ? [] :\n" + strings.Join(parts, " +\n")
}

// setKey adds a label or an annotation.
func setKey(in, key, value string) string {
	return fmt.Sprintf(`[JSONPatch{op: "add", path: "/metadata/%s/" + jsonpatch.escapeKey(%q), value: %s}]`, in, key, value)
}

// defaultContainer makes kubectl choose the app and not the proxy, as package inject does.
var defaultContainer = fmt.Sprintf(`(variables.injected || %[1]q in variables.annotations ? [] :
  %[2]s + %[3]s)`, "kubectl.kubernetes.io/default-container",
	setKey("annotations", "kubectl.kubernetes.io/default-container", "variables.containers[0].name"),
	setKey("annotations", api.DefaultAnnotation, "variables.containers[0].name"))

// insertions put init container, proxy and volume into their places.
func (w *writer) insertions() []string {
	missing := func(list string) string {
		return fmt.Sprintf(`(has(object.spec.%[1]s) ? [] : [JSONPatch{op: "add", path: "/spec/%[1]s", value: []}])`, list)
	}
	add := func(path, value string) string {
		return fmt.Sprintf(`JSONPatch{op: "add", path: "/spec/%s", value: %s}`, path, value)
	}
	list := []string{missing("initContainers"), missing("volumes")}
	initAt, proxyAt := `/spec/initContainers/0`, `/spec/initContainers/1`
	if w.plan.Native {
		list = append(list, "["+add("initContainers/0", "variables.proxy")+", "+add("initContainers/0", "variables.init")+"]")
	} else {
		initAt, proxyAt = `/spec/initContainers/" + string(size(variables.inits)) + "`, `/spec/containers/0`
		list = append(list, "["+add("initContainers/-", "variables.init")+", "+add("containers/0", "variables.proxy")+"]")
	}
	for name, at := range map[string]string{api.InitName: initAt, api.ProxyName: proxyAt} {
		if slices.Contains(w.declaration.ResourceDefaults, name) {
			list = append(list, fmt.Sprintf(`(has(object.spec.resources) ? [JSONPatch{op: "remove", path: "%s/resources"}] : [])`, at))
		}
	}
	slices.Sort(list[3:])
	return append(list, "["+add("volumes/-", "variables.volume")+"]")
}

// positions are variables: where our containers stand among their lists, -1 for nowhere. Behind is where a native proxy
// stands once init has become the first.
func (w *writer) positions() []variable {
	index := func(list, name string) string {
		return fmt.Sprintf("%s.map(c, c.?name.orValue(\"\")).indexOf(%q)", list, name)
	}
	return []variable{
		{"initAt", index("variables.inits", api.InitName)},
		{"proxyAt", index(w.proxyList(), api.ProxyName)},
		{"behind", "variables.proxyAt < variables.initAt ? variables.proxyAt + 1 : variables.proxyAt"},
	}
}

// moves take our containers back to their places, where other mutators have put theirs before them.
func (w *writer) moves() []string {
	move := func(unless, list, from, to string) string {
		return fmt.Sprintf(`(%[1]s ? [] : [JSONPatch{op: "move", from: "/spec/%[2]s/" + string(variables.%[3]s), path: "/spec/%[2]s/" + string(%[4]s)}])`, unless, list, from, to)
	}
	if w.plan.Native {
		return []string{
			move("variables.initAt == 0", "initContainers", "initAt", "0"),
			move("variables.proxyAt < 0 || variables.behind == 1", "initContainers", "behind", "1"),
		}
	}
	return []string{
		move("variables.initAt == size(variables.inits) - 1", "initContainers", "initAt", "size(variables.inits) - 1"),
		move("variables.proxyAt <= 0", "containers", "proxyAt", "0"),
	}
}
