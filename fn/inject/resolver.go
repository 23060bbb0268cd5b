package inject

import (
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// securityPath is that of the pod's security context, where its sysctls stand.
const securityPath = ".spec.securityContext"

// ownSysctl says, beside the original handlers, that the app's own manifest has the sysctl. Strip leaves it there.
const ownSysctl = securityPath + ".sysctls." + podspec.PortSysctl

// mounting are the lists of containers that get the proxy's resolv.conf. Where the proxy is a plain container, it does
// not run yet beside init containers, and they keep that of the kubelet.
func mounting(native bool) []string {
	if native {
		return []string{"initContainers", "containers"}
	}
	return []string{"containers"}
}

// eachContainer visits the containers of some lists that are not ours, with the path of each.
func eachContainer(spec *yaml.Node, lists []string, visit func(container *yaml.Node, path string)) {
	for _, list := range lists {
		entries := node.Get(spec, list)
		if entries == nil || entries.Kind != yaml.SequenceNode {
			continue
		}
		for _, c := range entries.Content {
			if c.Kind == yaml.MappingNode && !isNamed(c, []string{api.InitName, api.ProxyName}) {
				visit(c, ".spec."+list+"."+node.Scalar(c, "name"))
			}
		}
	}
}

// resolverSpots are the places where a pod without redirect rules gets a mapping or a list, if there is none.
func resolverSpots(spec *yaml.Node, resolver *podspec.Resolver) (spots []spot) {
	if resolver == nil {
		return nil
	}
	eachContainer(spec, mounting(true), func(c *yaml.Node, path string) {
		spots = append(spots, spot{path + ".volumeMounts", node.Get(c, "volumeMounts")})
	})
	return append(spots, spot{securityPath, node.Get(spec, "securityContext")}, spot{securityPath + ".sysctls", node.Get(spec, "securityContext", "sysctls")})
}

// placeResolver gives the app's containers the resolv.conf of the proxy. It returns what Strip has to know beside the
// original handlers, as YAML.
func placeResolver(spec *yaml.Node, pod *corev1.PodSpec, resolver *podspec.Resolver, native bool, shared *node.Shared) string {
	mount := shared.Of(resolver.Mount)
	eachContainer(spec, mounting(native), func(c *yaml.Node, _ string) {
		mounts := node.Sequence(c, "volumeMounts")
		mounts.Content = append(mounts.Content, mount)
	})
	if podspec.PortStart(pod) < 0 {
		return ""
	}
	return ownSysctl + ": \"" + podspec.PortSysctlValue + "\"\n"
}

// addSysctl lets the proxy listen on port 53, unless the pod does so already.
func addSysctl(spec *yaml.Node, resolver *podspec.Resolver, shared *node.Shared) {
	security := node.Child(spec, "securityContext")
	if hasNamed(security, "sysctls", podspec.PortSysctl) {
		return
	}
	sysctls := node.Sequence(security, "sysctls")
	sysctls.Content = append(sysctls.Content, shared.Of(resolver.Sysctl))
}

// withoutRules tells whether an injected pod has no redirect rules.
func withoutRules(spec *yaml.Node) bool {
	if hasNamed(spec, "volumes", api.ResolverVolume) {
		return true
	}
	inits := node.Get(spec, "initContainers")
	if inits == nil {
		return false
	}
	for _, c := range inits.Content {
		if args := node.Get(c, "args"); isNamed(c, []string{api.InitName}) && args != nil && len(args.Content) > 0 {
			return args.Content[0].Value == podplan.InitResolver
		}
	}
	return false
}

// dropResolver undoes placeResolver and addSysctl, and takes the volume out.
func (e empties) dropResolver(spec, original *yaml.Node) {
	security := node.Get(spec, "securityContext")
	if !ownsSysctl(original) && hasNamed(security, "sysctls", podspec.PortSysctl) {
		e.dropNamed(security, "sysctls", securityPath, podspec.PortSysctl)
		if len(security.Content) == 0 {
			e.leave(spec, "securityContext", securityPath)
		}
	}
	e.dropNamed(spec, "volumes", ".spec", api.ResolverVolume)
	eachContainer(spec, mounting(true), func(c *yaml.Node, path string) {
		e.dropNamed(c, "volumeMounts", path, api.ResolverVolume)
	})
}

// ownsSysctl tells whether the annotation says so.
func ownsSysctl(annotation *yaml.Node) bool {
	if annotation == nil {
		return false
	}
	originals, err := yaml.Parse(annotation.Value)
	return err == nil && node.Get(originals.YNode(), ownSysctl) != nil
}
