package admission

import (
	"fmt"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// variable is a named expression; later ones see earlier ones as variables.NAME. The API server computes those that are
// used, once.
type variable struct{ name, expression string }

func variables(list []variable) *yaml.Node {
	out := node.List()
	for _, v := range list {
		out.Content = append(out.Content, node.Object("name", v.name, "expression", setting(strings.TrimSpace(v.expression))))
	}
	return out
}

// common are the variables of both policies: what the pod has, and which handlers of it go over the network, with their
// ports resolved as the kubelet does.
func common() []variable {
	return []variable{
		{"bounded", bounded()},
		{"inits", `variables.bounded ? object.spec.?initContainers.orValue([]) : []`},
		{"containers", `variables.bounded ? object.spec.?containers.orValue([]) : []`},
		{"volumes", `variables.bounded ? object.spec.?volumes.orValue([]) : []`},
		{"annotations", `variables.bounded ? object.metadata.?annotations.orValue({}) : {}`},
		{"slots", slots},
		{"fields", "variables.slots.map(s,\n  " + strings.Join(fields(), " +\n  ") + "\n).flatten()"},
		{"actions", actions},
		{"handlers", fmt.Sprintf(handlers, strconv.Quote(podplan.HandlerPath("")), api.HealthPort)},
	}
}

// What the expressions look at is bounded before they do: the budget of the API server bounds what they count, and the
// time that its counter itself takes grows with the square of that. A pod of 250 KB took it seconds.
const (
	maxContainers = 200
	maxSettings   = 10_000 // variables, ports and mounts of all containers together
	maxVolumes    = 1000   // and as many sources of projected ones, and annotations
)

// tooLarge is the message for a pod beyond.
var tooLarge = fmt.Sprintf("has more than %d containers, %d variables, ports and mounts of them, or %d volumes, sources of projected volumes or annotations, beyond what is looked at; make it smaller",
	maxContainers, maxSettings, maxVolumes)

func bounded() string {
	const all = "(object.spec.?initContainers.orValue([]) + object.spec.?containers.orValue([]))"
	const volumes = "object.spec.?volumes.orValue([])"
	var settings []string
	for _, field := range []string{"env", "envFrom", "ports", "volumeMounts"} {
		settings = append(settings, "size(c.?"+field+".orValue([]))")
	}
	return fmt.Sprintf(`
size(%s) <= %d &&
%[1]s.map(c, %[3]s).sum() <= %[4]d &&
size(%[5]s) <= %[6]d &&
%[5]s.map(v, size(v.?projected.?sources.orValue([]))).sum() <= %[6]d &&
size(object.metadata.?annotations.orValue({})) <= %[6]d`, all, maxContainers, strings.Join(settings, " + "), maxSettings, volumes, maxVolumes)
}

// slots are the containers that are not ours, and where they stand.
const slots = `
(lists.range(size(variables.inits)).map(i, {"at": dyn("/spec/initContainers/" + string(i)), "c": dyn(variables.inits[i])}) +
  lists.range(size(variables.containers)).map(i, {"at": dyn("/spec/containers/" + string(i)), "c": dyn(variables.containers[i])}))
  .filter(s, !(s.c.?name.orValue("") in ["` + api.InitName + `", "` + api.ProxyName + `"]))`

// fields are expressions of the fields in which a slot s may have a handler.
func fields() (list []string) {
	for _, f := range podspec.HandlerFields() {
		has := "s.c.?" + strings.Join(f.Path, ".?")
		list = append(list, fmt.Sprintf(`(%s.hasValue() ? [{"at": dyn(s.at + "/%s"), "key": dyn(s.c.?name.orValue("") + %s), "c": dyn(s.c), "h": dyn(s.c.%s), "probe": dyn(%t)}] : [])`,
			has, strings.Join(f.Path, "/"), strconv.Quote(podplan.HandlerKey("", f.Name)), strings.Join(f.Path, "."), f.Probe))
	}
	return list
}

// actions are the handlers that go over the network to the pod itself. A probe has a timeout, of a second where it says
// none.
const actions = `
variables.fields.map(f, {
  "at": dyn(f.at), "key": dyn(f.key), "c": dyn(f.c),
  "kind": dyn(has(f.h.httpGet) ? "httpGet" : has(f.h.tcpSocket) ? "tcpSocket" : has(f.h.grpc) ? "grpc" : ""),
  "a": dyn(has(f.h.httpGet) ? f.h.httpGet : has(f.h.tcpSocket) ? f.h.tcpSocket : has(f.h.grpc) ? f.h.grpc : {}),
  "timeout": dyn(!f.probe ? 0 : f.h.?timeoutSeconds.orValue(1) < 1 ? 1 : f.h.?timeoutSeconds.orValue(1))
}).filter(f, f.kind != "" && f.a.?host.orValue("") == "")`

// handlers are these with their ports, 0 where the container has no port of that name. Those that are ours lead to the
// proxy's health port.
const handlers = `
variables.actions.map(f, {
  "at": dyn(f.at), "key": dyn(f.key), "kind": dyn(f.kind), "a": dyn(f.a), "timeout": dyn(f.timeout),
  "port": dyn(type(f.a.?port.orValue(0)) == int ? f.a.?port.orValue(0) :
    string(f.a.port).matches("^[0-9]{1,5}$") && int(string(f.a.port)) < 65536 ? int(string(f.a.port)) :
    (f.c.?ports.orValue([]).filter(p, p.?name.orValue("") == f.a.port).map(p, dyn(p.containerPort)) + [dyn(0)])[0]),
  "ours": dyn(f.kind == "httpGet" && f.a.?path.orValue("") == %s + f.key && f.a.?port.orValue(0) == %d)
})`

// entry is an expression for the text of a handler h in workload.json, as podplan writes it.
func entry() string {
	member := func(name, value string) string { return fmt.Sprintf(`"        \"%s\": " + %s`, name, value) }
	optional := func(condition, text string) string { return fmt.Sprintf("(%s ? [%s] : [])", condition, text) }
	header := `"          {\n            \"name\": " + ` + jsonText("x.name") + ` + ",\n            \"value\": " + ` + jsonText(`x.?value.orValue("")`) + ` + "\n          }"`
	members := []string{
		optional(`h.kind == "httpGet" && h.a.?scheme.orValue("") == "HTTPS"`, member("scheme", `"\"HTTPS\""`)),
		"[" + member("port", "string(h.port)") + "]",
		optional(`h.kind == "httpGet" && h.a.?path.orValue("") != ""`, member("path", jsonText("h.a.path"))),
		optional(`h.kind == "httpGet" && size(h.a.?httpHeaders.orValue([])) > 0`,
			`"        \"headers\": [\n" + h.a.httpHeaders.map(x, `+header+`).join(",\n") + "\n        ]"`),
		optional(`h.kind == "grpc" && h.a.?service.orValue(null) != null && h.a.service != ""`, member("service", jsonText("h.a.service"))),
	}
	return `"    \"" + h.key + "\": {\n      \"" + h.kind + "\": {\n" + (` + "\n      " + strings.Join(members, " +\n      ") + "\n    " + `).join(",\n") + "\n      }" +
    (h.timeout > 0 ? ",\n      \"timeoutSeconds\": " + string(h.timeout) : "") + "\n    }"`
}
