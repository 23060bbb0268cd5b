package admission

import (
	"fmt"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// injected are the conditions that a pod is injected as a whole. They name what counts, since admission plugins and
// other mutators set more fields of every container. What another program could run by, or the proxy could be told
// otherwise by, counts: whoever makes pods may bring containers of our names along.
func (w *writer) injected() []validation {
	const way = "; another mutator has changed it, or the policy that injects is missing"
	places := fmt.Sprintf(`size(variables.inits) > 1 && variables.inits[0].name == %q && variables.inits[1].name == %q`, api.InitName, api.ProxyName)
	order := "initContainers must begin with " + api.InitName + " and " + api.ProxyName
	if !w.plan.Native {
		places = fmt.Sprintf(`size(variables.inits) > 0 && variables.inits[size(variables.inits) - 1].name == %q && size(variables.containers) > 1 && variables.containers[0].name == %q`, api.InitName, api.ProxyName)
		order = "initContainers must end with " + api.InitName + ", and containers begin with " + api.ProxyName
	}
	return []validation{
		{expression: places, message: "is not injected: " + order + way},
		{expression: strings.Join(w.wholeInit(), " &&\n"), message: "container " + api.InitName + " is not as the render wrote it: image, arguments, environment, mounts or securityContext differ" + way + ". For a mirror of the image set spec.init.image"},
		{expression: strings.Join(w.wholeProxy(), " &&\n"), message: "container " + api.ProxyName + " is not as the render wrote it: image, arguments, environment, mounts, hooks or user differ" + way + ". For a mirror of the image set spec.proxy.image"},
		{expression: w.wholeVolume(), message: "the volume " + api.VolumeName + " with the leaf of the workload is missing, is another, or there are two" + way},
		{expression: fmt.Sprintf(`object.metadata.?labels[?%q].orValue("") == %q`, api.PackageLabel, w.plan.Package), message: "the label " + api.PackageLabel + " is missing or another" + way},
		{expression: w.wholeWorkload(), message: "the annotation " + api.WorkloadAnnotation + " is missing, has been changed, or is of another workload: whoever else selects the pod declares it twice"},
		{expression: controlCharacters, message: "a handler has a control character in its path, a header or its service, which workload.json cannot hold; take it out"},
		{expression: fmt.Sprintf("variables.handlers.all(h, %s)", w.served()), messageExpression: fmt.Sprintf(`"handlers " + variables.handlers.filter(h, !(%s)).map(h, string(h.key)).join(", ") + ": do not go through the proxy's health port, so the kubelet would be refused%s"`, w.served(), way)},
	}
}

func (w *writer) wholeInit() []string {
	return append(program("init", w.plan.Init.Image, w.parts.Init),
		"variables.init.?args.orValue([]) == "+texts(w.plan.Redirect.Args()),
		"!has(variables.init.restartPolicy)",
		"variables.init.?securityContext.?runAsUser.orValue(-1) == 0",
		`"NET_ADMIN" in variables.init.?securityContext.?capabilities.?add.orValue([])`)
}

func (w *writer) wholeProxy() []string {
	list := append(program("proxy", w.plan.Proxy.Image, w.parts.Proxy),
		"variables.proxy.?args.orValue([]) == variables.proxyArgs",
		fmt.Sprintf("variables.proxy.?securityContext.?runAsUser.orValue(-1) == %d", w.plan.Redirect.ProxyUID))
	if w.plan.Native {
		list = append(list, `variables.proxy.?restartPolicy.orValue("") == "Always"`)
	}
	return list
}

// program are the conditions that a container of ours, a variable, runs the program of its image as the render told it
// to, and no other one beside it: hooks and probes run programs, too, and a mount may put another one in the place of
// ours, or other files in the place of the proxy's. A variable that begins with GO changes what a Go program does, and
// one tells the proxy its namespace. Kubernetes and clouds mount tokens into every container.
func program(c, image string, written *yaml.Node) []string {
	const tokens = `m.mountPath.startsWith("/var/run/secrets/") && !m.mountPath.contains("..")`
	list := []string{
		fmt.Sprintf(`(variables.%[1]s.?image.orValue("") == %[2]q || variables.%[1]s.?image.orValue("").startsWith(%[3]q))`, c, image, image+"@"),
		fmt.Sprintf("!has(variables.%s.command)", c),
		fmt.Sprintf("!has(variables.%s.envFrom)", c),
		fmt.Sprintf(`variables.%s.?env.orValue([]).filter(e, e.name.startsWith("GO") || e.name == %q) == %s`, c, podplan.NamespaceVariable, asWritten(written, node.List(), "env")),
		fmt.Sprintf("variables.%s.?volumeMounts.orValue([]).filter(m, !(%s)) == %s", c, tokens, asWritten(written, node.List(), "volumeMounts")),
		fmt.Sprintf("variables.%s.?lifecycle.orValue({}) == %s", c, asWritten(written, node.Object(), "lifecycle")),
	}
	for _, probe := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		list = append(list, fmt.Sprintf("!variables.%s.?%s.?exec.hasValue()", c, probe))
	}
	return list
}

// asWritten is a field of a container in CEL, as the render writes it.
func asWritten(written, missing *yaml.Node, field string) string {
	if n := node.Get(written, field); n != nil {
		return literal(n, "")
	}
	return literal(missing, "")
}

func (w *writer) wholeVolume() string {
	return fmt.Sprintf(`variables.volumes.filter(v, v.name == %q).map(v, v.?projected.?sources.orValue([])) == [%s]`, api.VolumeName, literal(node.Get(w.parts.Volume, "projected", "sources"), ""))
}

// wholeWorkload is a condition: workload.json is what the plan says, and handlers in the form of entry alone. A JSON
// reader takes the last of two keys, so nothing else may stand among them.
func (w *writer) wholeWorkload() string {
	open := w.open + handlersBegin
	return fmt.Sprintf(`%[1]s == %[2]s ||
%[1]s.startsWith(%[3]s) && %[1]s.endsWith(%[4]s) &&
%[1]s.substring(%[5]d, size(%[1]s) - %[6]d).matches(%[7]s)`,
		workload, strconv.Quote(w.open+plainEnd), strconv.Quote(open), strconv.Quote(handlersEnd), len([]rune(open)), len(handlersEnd), strconv.Quote(entries))
}

// entries is a regular expression for the handlers in workload.json, as entry writes them.
var entries = strings.NewReplacer("STRING", `"([^"\\\n]|\\["\\nrtbf])*"`, "NUMBER", "[0-9]+").Replace(`^(    "[^"\\\n]+": \{
      "(httpGet|tcpSocket|grpc)": \{
(        "scheme": "HTTPS",
)?        "port": NUMBER(,
        "path": STRING)?(,
        "headers": \[
(          \{
            "name": STRING,
            "value": STRING
          \}(,
|
        \]))+)?(,
        "service": STRING)?
      \}(,
      "timeoutSeconds": NUMBER)?
    \}(,
|$))+$`)
