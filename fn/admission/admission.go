// Package admission writes the policies by which the API server injects the pods of declared workloads when they are
// made: a MutatingAdmissionPolicy that does to a pod what package inject does to a pod template, and a
// ValidatingAdmissionPolicy that refuses, with the reason, what it cannot serve. Both are written from the plan, by the
// writer of package podspec; that they do the same, test/admission holds against the API server's own packages.
package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Specs are the specs of the policies of a declared workload, in the order of manifest.PolicyKinds. Name is that of all
// of them, the plan what every pod is told.
func Specs(name string, d *manifest.Declaration, p *podplan.Plan) ([]*yaml.Node, error) {
	w, err := newWriter(d, p)
	if err == nil {
		err = understood(d)
	}
	if err != nil {
		return nil, err
	}
	return []*yaml.Node{
		node.Object(
			"failurePolicy", "Fail",
			"matchConstraints", w.matches(),
			"mutations", node.List(node.Object("jsonPatch", node.Object("expression", setting(w.mutation())), "patchType", "JSONPatch")),
			"reinvocationPolicy", "IfNeeded",
			"variables", variables(w.mutating()),
		),
		node.Object("policyName", name),
		node.Object(
			"failurePolicy", "Fail",
			"matchConstraints", w.matches(),
			"validations", w.validations(),
			"variables", variables(w.validating()),
		),
		node.Object("policyName", name, "validationActions", []string{"Deny"}),
	}, nil
}

// understood refuses a template into which an injection has put more than the policies put into pods: these would run
// in another way than they are told. The template is as package inject left it, or not injected yet.
func understood(d *manifest.Declaration) error {
	spec := node.Get(d.Node.YNode(), append(slices.Clone(d.PodTemplate().Path), "spec")...)
	if spec == nil || spec.Kind != yaml.MappingNode {
		return errors.New("the declaration has no pod template; render again")
	}
	known := map[string][]string{"initContainers": {api.InitName, api.ProxyName}, "containers": {api.ProxyName, manifest.DeclaredContainer}, "volumes": {api.VolumeName}}
	for i := 0; i+1 < len(spec.Content); i += 2 {
		key := spec.Content[i].Value
		names, ok := known[key]
		if !ok {
			return fmt.Errorf("its pods need spec.%s, which admission policies do not set: take what asks for it out of the config, or give the workload a pod template in Git", key)
		}
		for _, entry := range spec.Content[i+1].Content {
			name := node.Scalar(entry, "name")
			if !slices.Contains(names, name) {
				return fmt.Errorf("its pods need %q among spec.%s, which admission policies do not add: take what asks for it out of the config, or give the workload a pod template in Git", name, key)
			}
			if fields := len(entry.Content) / 2; name == manifest.DeclaredContainer && (fields > 2 || fields == 2 && node.Index(entry, "ports") < 0) {
				return fmt.Errorf("its containers need more than their ports, which admission policies do not change: take what asks for it out of the config, or give the workload a pod template in Git")
			}
		}
	}
	return nil
}

// writer has what the expressions of one workload are made of.
type writer struct {
	declaration *manifest.Declaration
	plan        *podplan.Plan
	parts       podspec.Parts
	open        string     // workload.json without handlers, up to its last brace
	asked       []variable // what our containers ask for, where it depends on the pod
}

// The end of workload.json without handlers, what stands between the rest and the handlers, and the end with them.
const (
	plainEnd      = "\n}\n"
	handlersBegin = ",\n  \"handlers\": {\n"
	handlersEnd   = "\n  }\n}\n"
)

func newWriter(d *manifest.Declaration, p *podplan.Plan) (*writer, error) {
	parts, err := podspec.Write(p)
	if err != nil {
		return nil, err
	}
	w := &writer{declaration: d, plan: p, parts: parts, open: strings.TrimSuffix(parts.Annotation, plainEnd)}
	if err := errors.Join(w.setResources(parts.Init, "initResources"), w.setResources(parts.Proxy, "proxyResources")); err != nil {
		return nil, err
	}
	node.Set(parts.Proxy, "args", expression("variables.proxyArgs"))
	if hook := node.Get(parts.Proxy, "lifecycle", "preStop", "exec"); hook != nil {
		node.Set(hook, "command", expression("variables.drainCommand"))
	}
	return w, nil
}

// matches selects the pods, when they are made.
func (w *writer) matches() *yaml.Node {
	return node.Object(
		"namespaceSelector", node.Object("matchLabels", node.Object("kubernetes.io/metadata.name", w.declaration.Metadata.Namespace)),
		"objectSelector", manifest.SelectorNode(w.declaration.Selector),
		"resourceRules", node.List(node.Object("apiGroups", []string{""}, "apiVersions", []string{"v1"}, "operations", []string{"CREATE"}, "resources", []string{"pods"})),
	)
}

// commandLines are the variables with what the grace period of a pod decides.
func (w *writer) commandLines() []variable {
	list := append(gracePeriod(),
		variable{"proxyArgs", drained(w.plan, func(p *podplan.Plan) []string { return p.Serve.Args() })})
	if !w.plan.Native {
		list = append(list, variable{"drainCommand", texts([]string{podplan.ProxyBinary}) + " + (" + drained(w.plan, func(p *podplan.Plan) []string { return p.Drain().Args() }) + ")"})
	}
	return list
}

// workload is an expression for the annotation that the proxy reads.
const workload = `variables.annotations[?"` + api.WorkloadAnnotation + `"].orValue("")`
