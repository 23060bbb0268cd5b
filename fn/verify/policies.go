package verify

import (
	"slices"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/admission"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// readPolicies finds the policies of declared workloads, and what they declare.
func (c *checker) readPolicies(items []*yaml.RNode) {
	for _, item := range items {
		identity := item.GetAnnotations()[api.IdentityAnnotation]
		if !manifest.IsPolicy(item) || identity == "" {
			continue
		}
		c.injecting = append(c.injecting, item)
		d, err := manifest.ReadDeclaration(item)
		switch {
		case err != nil:
			c.report.Error(report.ObjectOf(item), report.Annotation(api.DeclaredAnnotation), "%v", err)
		case d != nil:
			c.declarations[item] = d
			c.report.LocateAt(d.Object(), report.ObjectOf(item))
		case item.GetKind() == manifest.PolicyKinds[0]:
			c.report.Error(report.ObjectOf(item), report.Annotation(api.DeclaredAnnotation), "is missing: nobody knows which pods it injects; render again")
		}
	}
}

// declares tells whether the pods that an item makes are those of a declared workload.
func (c *checker) declares(item *yaml.RNode) bool {
	for _, d := range c.declarations {
		if d.Is(item) {
			return true
		}
	}
	return false
}

// declared holds the policies of each declared workload against what a render writes for its plan: a policy that is
// missing, or that another hand has changed, lets pods run without their proxy.
func (c *checker) declared() {
	left := slices.Clone(c.injecting)
	for _, p := range c.pods {
		if p.declaration == nil {
			continue
		}
		if p.plan == nil {
			if !c.unread {
				c.report.Error(p.object, "template", "is not injected, so its policies inject nothing; render again")
			}
			continue
		}
		name := p.asWorkload().PolicyName(p.plan.Package)
		specs, err := admission.Specs(name, p.declaration, p.plan)
		if err != nil {
			c.report.Error(p.object, "template", "%v", err)
			continue
		}
		for i, kind := range manifest.PolicyKinds {
			of := slices.IndexFunc(left, func(item *yaml.RNode) bool {
				return item.GetKind() == kind && item.GetAnnotations()[api.IdentityAnnotation] == p.plan.Workload.SPIFFEID
			})
			if of < 0 {
				c.report.Error(p.object, "", "its %s %s is missing, without which pods run outside of the mesh; render the whole package again", kind, name)
				continue
			}
			c.policy(left[of], name, p.plan.Package, specs[i])
			left = slices.Delete(left, of, of+1)
		}
	}
	for _, item := range left {
		if _, carries := c.declarations[item]; !carries || !c.unread {
			c.report.Error(report.ObjectOf(item), "", "is a policy of meshless for %s, which no declaration in the input asks for; render the whole package again", item.GetAnnotations()[api.IdentityAnnotation])
		}
	}
}

func (c *checker) policy(item *yaml.RNode, name, pkg string, spec *yaml.Node) {
	c.shaped(item, shape{apiVersion: manifest.PolicyAPIVersion, name: name, fields: []string{"spec"}})
	c.ofPackage(item, pkg)
	c.compareSpec(item, spec, ": its pods would not be injected as the config asks for")
}

// declaredWorkload checks a workload that a policy declares as one of the input.
func (c *checker) declaredWorkload(d *manifest.Declaration) {
	c.workloads++
	before := len(c.pods)
	c.workload(d.Node, d.PodTemplate())
	for _, p := range c.pods[before:] {
		p.declaration = d
	}
}
