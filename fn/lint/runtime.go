package lint

import (
	"cmp"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// runtime is a kind of container runtime, by beginnings of the names of its handlers and RuntimeClasses.
type runtime struct {
	names []string
	what  string // what is known of it; "" for those that run containers with the node's kernel
	rules bool   // it may be that rules alone do not work
}

// closed is what happens where the rules cannot be made; a pod without any starts all the same.
const closed = "; where init cannot make its rules, the pod does not start"

// noRules is the way out of rules.
const noRules = ", or do without rules by the annotation " + api.RedirectAnnotation + ": None (docs/no-redirect.md), which was not tried there either"

var runtimes = []runtime{
	{[]string{"runc", "crun", "youki", "nvidia", "habana", "amd"}, "", false},
	{[]string{"gvisor", "runsc"}, "gVisor's network stack has no nftables, and of iptables a part with which meshless was not tried", true},
	{[]string{"kata"}, "Kata runs the pod in a virtual machine, with whose kernel meshless was not tried", true},
	{[]string{"spin", "wasm", "slight", "lunatic"}, "it runs WebAssembly, and init and proxy are Linux programs; this was not tried", false},
}

// warnRuntime warns of pods that do not run with the node's kernel, as far as names tell. Who has tried it says so.
func warnRuntime(m *manifest.Model, w *manifest.Workload, r *report.Report) {
	class := w.Pod.Spec.RuntimeClassName
	if class == nil || *class == "" || w.Pod.Annotations[api.InjectAnnotation] == "enabled" {
		return
	}
	name := strings.ToLower(cmp.Or(m.RuntimeHandlers[*class], *class))
	found := runtime{what: "whether it runs the pod with the node's kernel is not known, and with another meshless was not tried", rules: true}
	if i := slices.IndexFunc(runtimes, func(x runtime) bool {
		return slices.ContainsFunc(x.names, func(begin string) bool { return strings.HasPrefix(name, begin) })
	}); i >= 0 {
		found = runtimes[i]
	}
	what, way := found.what, ""
	if found.rules && !w.Plan.NoRedirect() {
		what, way = what+closed, noRules
	}
	if what != "" {
		r.Warn(w.Object, w.Field("spec.runtimeClassName"), "is %s: %s. Try it, and say that it works with the annotation %s: enabled%s; or leave the workload out of the mesh with %s: disabled",
			*class, what, api.InjectAnnotation, way, api.InjectAnnotation)
	}
}
