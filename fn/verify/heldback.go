package verify

import (
	"cmp"
	"slices"

	"github.com/meshless-dev/meshless/fn/hold"
	"github.com/meshless-dev/meshless/internal/api"
)

// oneImage reports workloads whose proxy or init container is another program than that of most: whoever chooses the
// program has the key. A Job or Pod may be held back at an earlier image of the same repository, where the record in
// its state accounts for the whole template (package hold).
func (c *checker) oneImage() {
	recorded := map[*pod]bool{}
	for _, p := range c.injected {
		recorded[p] = c.recorded(p)
	}
	free := slices.DeleteFunc(slices.Clone(c.injected), func(p *pod) bool { return hold.Immutable(p.item) })
	for _, of := range []struct {
		name  string
		image func(*pod) string
	}{{api.InitName, initImage}, {api.ProxyName, proxyImage}} {
		most := cmp.Or(mostOf(free, of.image), mostOf(c.injected, of.image))
		for _, p := range c.injected {
			field := p.field(p.place(of.name) + ".image")
			switch value := of.image(p); {
			case value == "" || value == most:
			case recorded[p] && hold.Repository(value) == hold.Repository(most):
				c.report.Info(p.object, field, "is %s, and others run %s: it is held back, since Kubernetes lets nobody change a %s that exists. To have it written anew, take the annotation %s out of its Secret or Certificate, and render",
					value, most, p.object.Kind, api.WrittenAnnotation)
			case c.options.EveryWorkload:
				c.report.Error(p.object, field, notMost, value, most)
			}
		}
	}
}

func initImage(p *pod) string { return p.plan.Init.Image }

// proxyImage is "" where an annotation chooses it, which overrides and annotated check.
func proxyImage(p *pod) string {
	if _, chosen := p.spec.Annotations[api.ProxyImageAnnotation]; chosen {
		return ""
	}
	return p.plan.Proxy.Image
}

// recorded tells whether a record accounts for what stands in a template that cannot be changed. It stands in the state
// of the workload, the object whose leaf it mounts: elsewhere anybody could have written it.
func (c *checker) recorded(p *pod) bool {
	if !hold.Immutable(p.item) {
		return false
	}
	name := namespacedName(p.object, p.plan.Files.LeafSecret)
	leaf := cmp.Or(c.secrets[name], c.managed[name])
	if leaf == nil || leaf.written == "" || leaf.Identity != p.plan.Workload.SPIFFEID {
		return false
	}
	template, stripped, err := strip(p)
	return err == nil && hold.Accounts(leaf.written, template, stripped, p.plan)
}
