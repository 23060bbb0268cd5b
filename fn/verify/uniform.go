package verify

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// uniform reports workloads that were given something else than most, which one config says for the whole mesh. Images
// are oneImage's. What package hold keeps of a Job or Pod may be that of an earlier config.
func (c *checker) uniform() {
	unheld := func(value func(*podplan.Plan) string) func(*pod) string {
		return func(p *pod) string {
			if c.recorded(p) {
				return ""
			}
			return value(p.plan)
		}
	}
	for _, of := range []struct {
		field func(*pod) string
		value func(*pod) string // "" for a workload that is not asked
	}{
		{func(p *pod) string { return p.place(api.InitName) + ".args" }, func(p *pod) string { return fmt.Sprintf("uid %d", p.plan.Redirect.ProxyUID) }},
		{func(p *pod) string { return p.place(api.InitName) + ".args" }, ruled(func(p *pod) string { return string(p.plan.Redirect.Backend) })},
		{func(p *pod) string { return p.place(api.InitName) + ".args" }, ruled(func(p *pod) string { return "client addresses " + p.plan.Redirect.ClientCIDRs.String() })},
		{func(p *pod) string { return p.place(api.ProxyName) + ".args" }, unheld(func(p *podplan.Plan) string { return fmt.Sprintf("records %s", p.Serve.Records) })},
		{func(p *pod) string { return p.place(api.ProxyName) + ".args" }, unheld(func(p *podplan.Plan) string { return fmt.Sprintf("idle timeout %s", p.Serve.IdleTimeout) })},
		{(*pod).sourcesField, func(p *pod) string { return source(p.plan.Files.Identity) }},
		{(*pod).sourcesField, sharedBundle},
	} {
		most := mostOf(c.injected, of.value)
		for _, p := range c.injected {
			if value := of.value(p); value != "" && value != most {
				c.report.Error(p.object, p.field(of.field(p)), notMost, value, most)
			}
		}
	}
}

// ruled is what a workload with redirect rules is asked; others have none of it.
func ruled(value func(*pod) string) func(*pod) string {
	return func(p *pod) string {
		if p.plan.NoRedirect() {
			return ""
		}
		return value(p)
	}
}

// sharedBundle is where a pod takes the bundle from, unless that is the copy of a hook.
func sharedBundle(p *pod) string {
	if name := p.plan.Files.Bundle.Name; strings.HasPrefix(name, api.HookBundlePrefix) && name == p.asWorkload().HookBundleName() {
		return ""
	}
	return source(p.plan.Files.Bundle)
}

const notMost = "takes %q, and most workloads take %q: one config says it for all; render the whole package again"

// mostOf is the value that most pods have, but for the empty one.
func mostOf(pods []*pod, value func(*pod) string) string {
	counts := map[string]int{}
	for _, p := range pods {
		counts[value(p)]++
	}
	delete(counts, "")
	most := ""
	for _, candidate := range slices.Sorted(maps.Keys(counts)) {
		if counts[candidate] > counts[most] {
			most = candidate
		}
	}
	return most
}

// source is an object and a key of it in one text; "" where there is none.
func source(s podplan.Source) string {
	if s.Name == "" {
		return ""
	}
	return s.Name + "[" + s.Key + "]"
}

// overrides reports annotations that say otherwise than the config, where the config does not let them.
func (c *checker) overrides(p *pod) {
	for _, key := range slices.Sorted(maps.Keys(p.spec.Annotations)) {
		name, ours := strings.CutPrefix(key, api.AnnotationPrefix)
		if ours && slices.Contains(api.Overrides, name) && !slices.Contains(c.options.Overrides, name) {
			c.report.Error(p.object, p.field(report.Annotation(key)), "is not among the annotations that spec.workloads.overrides of the config allows (without --config: all but %s)", api.ProxyImageAnnotation)
		}
	}
}
