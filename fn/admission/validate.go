package admission

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/lint"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
)

// validation is a condition that a pod must meet, and the message when it does not: a text, or an expression.
type validation struct{ expression, message, messageExpression string }

// validating are the variables of the validating policy.
func (w *writer) validating() []variable {
	list := append(common(),
		variable{"others", "variables.slots.map(s, s.c)"},
		variable{"secrets", secrets},
		variable{"init", containerNamed("variables.inits", api.InitName)},
		variable{"proxy", containerNamed(w.proxyList(), api.ProxyName)},
		variable{"performed", performed},
	)
	return append(list, w.commandLines()...)
}

func (w *writer) proxyList() string {
	if w.plan.Native {
		return "variables.inits"
	}
	return "variables.containers"
}

func containerNamed(list, name string) string {
	return fmt.Sprintf("(%s.filter(c, c.?name.orValue(\"\") == %q) + [dyn({})])[0]", list, name)
}

// secrets are those that the containers get at, but for our own volume: podspec.SecretUses in CEL.
const secrets = `
variables.volumes.filter(v, v.name != "` + api.VolumeName + `").map(v,
  [v.?secret.?secretName.orValue(""), v.?csi.?nodePublishSecretRef.?name.orValue(""), v.?flexVolume.?secretRef.?name.orValue("")] +
  v.?projected.?sources.orValue([]).map(s, s.?secret.?name.orValue(""))).flatten() +
variables.others.map(c,
  c.?envFrom.orValue([]).map(e, e.?secretRef.?name.orValue("")) +
  c.?env.orValue([]).map(e, e.?valueFrom.?secretKeyRef.?name.orValue(""))).flatten()`

// performed are the keys of the handlers in workload.json. No other line of it begins with four blanks and a quotation
// mark, and no string in it holds a line break. To look for each key in the whole text would cost too much.
const performed = workload + `.split("\n    \"").map(line, line.substring(0, line.indexOf("\": {") < 0 ? 0 : line.indexOf("\": {")))`

// named is a validation that no container meets a condition c, with a message that names those that do.
func named(condition, message string) validation {
	return validation{
		expression:        fmt.Sprintf("!variables.others.exists(c, %s)", condition),
		messageExpression: fmt.Sprintf(`"containers " + variables.others.filter(c, %s).map(c, string(c.?name.orValue(""))).join(", ") + %s`, condition, strconv.Quote(": "+message)),
	}
}

// validations refuse pods that the mesh cannot serve, as package lint refuses pod templates, and those that are not
// injected as a whole.
func (w *writer) validations() *yaml.Node {
	list := node.List()
	id := w.plan.Workload.SPIFFEID
	for _, v := range slices.Concat(w.unservable(), w.injected()) {
		n := node.Object("expression", setting(v.expression))
		if v.messageExpression != "" {
			node.Set(n, "messageExpression", setting(strconv.Quote("meshless: "+id+": ")+" + "+v.messageExpression))
		} else {
			node.Set(n, "message", node.Text("meshless: "+id+": "+v.message))
		}
		node.Set(n, "reason", node.Text("Forbidden"))
		list.Content = append(list.Content, n)
	}
	return list
}

// unservable are the pods that cannot be in the mesh as they are.
func (w *writer) unservable() []validation {
	uid := w.plan.Redirect.ProxyUID
	list := []validation{
		{expression: "variables.bounded", message: tooLarge},
		{expression: "!object.spec.?hostNetwork.orValue(false)", message: "hostNetwork: a pod on the host's network cannot be redirected; take the workload out of spec.workloads.declared, or the pod off the host's network"},
		{expression: `object.spec.?os.?name.orValue("") != "windows" && object.spec.?nodeSelector[?"kubernetes.io/os"].orValue("") != "windows"`, message: "a Windows pod cannot be redirected; take it out of the selector in spec.workloads.declared"},
		{expression: fmt.Sprintf("object.spec.?securityContext.?runAsUser.orValue(-1) != %d", uid), message: fmt.Sprintf("securityContext.runAsUser: the pod runs as uid %d, which is the proxy's; set spec.sidecar.uid", uid)},
		named(fmt.Sprintf("c.?securityContext.?runAsUser.orValue(-1) == %d", uid), fmt.Sprintf("run as uid %d, which is the proxy's; set spec.sidecar.uid", uid)),
		named(fmt.Sprintf(`c.?ports.orValue([]).exists(p, p.?protocol.orValue("TCP") == "TCP" && p.containerPort in %s)`, ports(api.ReservedPorts)),
			"use a port that is the proxy's, one of "+ports(api.ReservedPorts)+"; choose another"),
		named(fmt.Sprintf(`c.?name.orValue("") in %s`, texts(slices.Sorted(maps.Keys(lint.ForeignSidecars)))), "are another mesh's, and a pod can be in one mesh only"),
		named(fmt.Sprintf(`c.?name.orValue("").startsWith(%q)`, api.NamePrefix), "have a name of meshless, and are none of its containers; rename them"),
		named(fmt.Sprintf(`c.?volumeMounts.orValue([]).exists(m, m.name == %q)`, api.VolumeName), "mount the volume "+api.VolumeName+", which holds the proxy's identity; take that out"),
		{expression: w.noSecrets(), message: "a volume or a variable hands a Secret of the proxies to the app; it holds a key or what opens keys. Take it out"},
		{expression: w.noAnnotations(), messageExpression: fmt.Sprintf(`"annotations " + variables.annotations.map(k, string(k)).filter(k, !(%s)).join(", ") + ": have no effect on the pods of a declared workload; write them into spec.workloads.declared"`, w.allowed("k"))},
		{expression: "variables.handlers.all(h, h.port > 0)", messageExpression: `"handlers " + variables.handlers.filter(h, h.port <= 0).map(h, string(h.key)).join(", ") + ": their containers have no port of that name; add it"`},
	}
	if !w.plan.Native {
		list = append(list, validation{
			expression: `!variables.inits.exists(c, c.?restartPolicy.orValue("") == "Always")`,
			message:    "initContainers: a native sidecar would start before the proxy and open connections in the clear; set spec.sidecar.mode: Native"})
	}
	return list
}

func ports(list []int) string { return strings.ReplaceAll(fmt.Sprint(list), " ", ", ") }

func (w *writer) noSecrets() string {
	mine := fmt.Sprintf("s.startsWith(%q)", api.NamePrefix)
	if name := w.plan.Files.Identity.Name; name != "" {
		mine += fmt.Sprintf(" || s == %q", name)
	}
	return "!variables.secrets.exists(s, " + mine + ")"
}

// allowed is a condition: an annotation k of a pod is not ours, or one that the mutation writes, or as it was declared.
func (w *writer) allowed(k string) string {
	written := texts([]string{api.WorkloadAnnotation, api.DefaultAnnotation})
	condition := fmt.Sprintf("!%[1]s.startsWith(%[2]q) || %[1]s in %[3]s", k, api.AnnotationPrefix, written)
	for _, key := range slices.Sorted(maps.Keys(w.declaration.Overrides)) {
		condition += fmt.Sprintf(" || %s == %q && variables.annotations[%s] == %q", k, key, k, w.declaration.Overrides[key])
	}
	return condition
}

func (w *writer) noAnnotations() string {
	return "variables.annotations.all(k, " + w.allowed("k") + ")"
}

// controlCharacters refuses what jsonText does not escape.
const controlCharacters = `!` + workload + `.matches("[\\x00-\\x09\\x0b-\\x1f]")`

// served is a condition: a handler h goes through the proxy, which knows it, or past it on purpose.
func (w *writer) served() string {
	return fmt.Sprintf(`h.port <= 0 || (h.ours ? h.key in variables.performed : %s)`, within("h.port", w.plan.Redirect.ExcludeInboundPorts))
}
