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
}

const closed = "where init cannot make its rules, the pod does not start"

var runtimes = []runtime{
	{[]string{"runc", "crun", "youki", "nvidia", "habana", "amd"}, ""},
	{[]string{"gvisor", "runsc"}, "gVisor's network stack has no nftables, and of iptables a part with which meshless was not tried; " + closed},
	{[]string{"kata"}, "Kata runs the pod in a virtual machine, with whose kernel meshless was not tried; " + closed},
	{[]string{"spin", "wasm", "slight", "lunatic"}, "it runs WebAssembly, and init and proxy are Linux programs; this was not tried"},
}

// warnRuntime warns of pods that do not run with the node's kernel, as far as names tell. Who has tried it says so.
func warnRuntime(m *manifest.Model, w *manifest.Workload, r *report.Report) {
	class := w.Pod.Spec.RuntimeClassName
	if class == nil || *class == "" || w.Pod.Annotations[api.InjectAnnotation] == "enabled" {
		return
	}
	name := strings.ToLower(cmp.Or(m.RuntimeHandlers[*class], *class))
	what := "whether it runs the pod with the node's kernel is not known, and with another meshless was not tried; " + closed
	if i := slices.IndexFunc(runtimes, func(x runtime) bool {
		return slices.ContainsFunc(x.names, func(begin string) bool { return strings.HasPrefix(name, begin) })
	}); i >= 0 {
		what = runtimes[i].what
	}
	if what != "" {
		r.Warn(w.Object, w.Field("spec.runtimeClassName"), "is %s: %s. Try it, and say that it works with the annotation %s: enabled; or leave the workload out of the mesh with %s: disabled", *class, what, api.InjectAnnotation, api.InjectAnnotation)
	}
}
