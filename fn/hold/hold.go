// Package hold keeps templates that cannot be changed as an earlier render wrote them. Kubernetes refuses every change
// of the template of a Job, and of a Pod, that exists. So a newer image, other resources or another log level must not
// get into one, or the next sync of the whole package fails.
//
// A render records, in an annotation of the workload's Secret, what it wrote: the digest of the template without these
// values, and the values. While the digest stays the same, the values do. What decides who is protected (identity,
// files, ports, exclusions, mode of the sidecar) is a part of the digest and never held back; whatever changes of it
// changes the template, and all of it is written anew.
package hold

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/inject"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Templates gives the workloads of a model whose templates cannot be changed the plans of an earlier render, where
// nothing else has changed. It returns the value of api.WrittenAnnotation for each of them. It warns of those that are
// written anew, and says which are held back.
func Templates(m *manifest.Model, r *report.Report) map[*manifest.Workload]string {
	records := map[*manifest.Workload]string{}
	for _, w := range m.Workloads {
		if w.Declaration != nil || !Immutable(w.Node) || replaced(w.Node) {
			continue
		}
		digest, err := digestOf(w.Template(), &w.Pod, w.Plan)
		if err != nil {
			continue // the injection says what is wrong
		}
		if earlier, ok := parse(writtenOf(m, w)); !ok || earlier.Template != digest || !keep(m, w, earlier, r) {
			warn(w, r)
		}
		records[w] = recordOf(digest, w.Plan).String()
	}
	return records
}

// Immutable tells whether Kubernetes refuses to change the pod template of an object of this kind.
func Immutable(item *yaml.RNode) bool {
	switch apiVersion := node.Scalar(item.YNode(), "apiVersion"); node.Scalar(item.YNode(), "kind") {
	case "Job":
		return strings.HasPrefix(apiVersion, "batch/")
	case "Pod":
		return apiVersion == "v1"
	}
	return false
}

// replaced tells whether whoever applies an object makes it anew where it cannot be changed, leaves it as it is, or
// does not find it any more.
func replaced(item *yaml.RNode) bool {
	annotations := item.GetAnnotations()
	for _, hook := range []string{"argocd.argoproj.io/hook", "helm.sh/hook"} {
		if annotations[hook] != "" {
			return true
		}
	}
	for option := range strings.SplitSeq(annotations["argocd.argoproj.io/sync-options"], ",") {
		if strings.TrimSpace(option) == "Force=true" {
			return true
		}
	}
	labels := item.GetLabels()
	flux := func(key, value string) bool { // it takes either
		return strings.EqualFold(annotations["kustomize.toolkit.fluxcd.io/"+key], value) || strings.EqualFold(labels["kustomize.toolkit.fluxcd.io/"+key], value)
	}
	return flux("force", "enabled") || flux("ssa", "IfNotPresent") ||
		item.GetKind() == "Job" && node.Get(item.YNode(), "spec", "ttlSecondsAfterFinished") != nil
}

// stateKind is the kind of the objects that hold the records.
func stateKind(m *manifest.Model) string {
	if m.Spec.UsesCertManager() {
		return manifest.ManagedKind
	}
	return "Secret"
}

// writtenOf is the record of a workload; "" where there is none.
func writtenOf(m *manifest.Model, w *manifest.Workload) string {
	state := m.State.Leaves[w.ID.String()]
	if m.Spec.UsesCertManager() {
		state = m.State.Certificates[w.ID.String()]
	}
	if state == nil {
		return ""
	}
	return state.GetAnnotations()[api.WrittenAnnotation]
}

// keep gives a workload the plan of its record, and tells whether that could be.
func keep(m *manifest.Model, w *manifest.Workload, earlier record, r *report.Report) bool {
	plan, err := earlier.plan(*w.Plan)
	if err != nil || podspec.Validate(plan) != nil {
		return false
	}
	for _, image := range [][2]string{{plan.Init.Image, w.Plan.Init.Image}, {plan.Proxy.Image, w.Plan.Proxy.Image}} {
		if Repository(image[0]) != Repository(image[1]) {
			return false // whoever chooses the proxy's program holds the key: a record chooses an older one at most
		}
	}
	if list := differences(plan, w.Plan); len(list) > 0 {
		r.Info(w.Object, manifest.FieldPath(w.TemplatePath), "stays as an earlier render wrote it, since Kubernetes lets nobody change it in a %s that exists: %s. To have it written anew, take the annotation %s out of its %s %s, and render",
			w.Kind, strings.Join(list, ", "), api.WrittenAnnotation, stateKind(m), w.SecretName())
	}
	w.Plan = plan
	return true
}

// differences lists what is held back.
func differences(held, wanted *podplan.Plan) (list []string) {
	add := func(what, have, want string) {
		if have != want {
			list = append(list, fmt.Sprintf("%s %s, not %s", what, have, want))
		}
	}
	for _, c := range []struct {
		name         string
		held, wanted podplan.Container
	}{{api.InitName, held.Init, wanted.Init}, {api.ProxyName, held.Proxy, wanted.Proxy}} {
		add("image of "+c.name, c.held.Image, c.wanted.Image)
		have, want := containerOf(c.held), containerOf(c.wanted)
		if have.PullPolicy != want.PullPolicy {
			list = append(list, "imagePullPolicy of "+c.name)
		}
		if !maps.Equal(have.Requests, want.Requests) || !maps.Equal(have.Limits, want.Limits) {
			list = append(list, "resources of "+c.name)
		}
	}
	if have, want := held.Serve.Args(), wanted.Serve.Args(); !slices.Equal(have, want) {
		list = append(list, "arguments of "+api.ProxyName)
	}
	if held.ToldNamespace != wanted.ToldNamespace {
		list = append(list, "environment of "+api.ProxyName)
	}
	return list
}

// warn says that a template is written anew.
func warn(w *manifest.Workload, r *report.Report) {
	ways := "the annotation argocd.argoproj.io/sync-options: Replace=true,Force=true or kustomize.toolkit.fluxcd.io/force: enabled, by which Argo CD or Flux replaces it"
	if w.Kind == "Job" {
		ways = "spec.ttlSecondsAfterFinished, or " + ways
	}
	r.Warn(w.Object, manifest.FieldPath(w.TemplatePath), "is written anew by this render, and Kubernetes lets nobody change it in a %s that exists: applying it fails there. Delete that %s first, or give it %s", w.Kind, w.Kind, ways)
}

// Accounts tells whether a record, the value of api.WrittenAnnotation, is of this template, which is stripped, and of
// this plan: then a render wrote the plan's images, if an earlier one.
func Accounts(written string, template *yaml.Node, pod *corev1.PodTemplateSpec, plan *podplan.Plan) bool {
	if len(pod.Spec.Containers) == 0 {
		return false
	}
	digest, err := digestOf(template, pod, plan)
	have, ok := parse(written)
	return err == nil && ok && have.String() == recordOf(digest, plan).String()
}

// digestOf is the digest of what a render writes for a plan into a stripped template, but for what is held back. Two
// templates of one digest differ in nothing else, whichever edition has written them.
func digestOf(stripped *yaml.Node, pod *corev1.PodTemplateSpec, plan *podplan.Plan) (string, error) {
	template := yaml.NewRNode(stripped).Copy().YNode()
	refused := func(string, error) {}
	if err := inject.Apply(template, pod, without(*plan), &node.Shared{}, refused); err != nil {
		return "", err
	}
	content := map[string]any{"edition": api.FilesEdition}
	for key, part := range map[string]*yaml.Node{
		"spec": node.Get(template, "spec"), "labels": node.Get(template, "metadata", "labels"), "annotations": node.Get(template, "metadata", "annotations"),
	} {
		if part == nil {
			continue
		}
		value, err := node.Values(part)
		if err != nil {
			return "", err
		}
		content[key] = value
	}
	if annotations, ok := content["annotations"].(map[string]any); ok { // those of a Pod are the object's
		maps.DeleteFunc(annotations, func(key string, _ any) bool { return ofTools(key) })
	}
	data, err := json.Marshal(content) // keys are sorted
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

// ofTools tells whether an annotation says where an object stands, and nothing of the object.
func ofTools(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	return strings.HasSuffix(domain, "config.kubernetes.io") || strings.HasSuffix(domain, "config.k8s.io")
}
