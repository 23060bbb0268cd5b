package podspec

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Resolver is what leads the DNS of a pod without redirect rules to its proxy.
type Resolver struct {
	Volume *yaml.Node // in which init leaves the file
	Mount  *yaml.Node // of the file, for the containers of the app
	Sysctl *yaml.Node // by which the proxy may listen on port 53 without a capability
}

// ResolverPath is where programs look for the servers that answer DNS queries.
const ResolverPath = "/etc/resolv.conf"

// The sysctl that lets anyone listen on any port of the pod. It is one of those that Kubernetes calls safe, and that
// every level of pod security allows.
const (
	PortSysctl      = "net.ipv4.ip_unprivileged_port_start"
	PortSysctlValue = "0"
)

// resolverSize is far more than a resolv.conf takes. It is in memory, since the cluster autoscaler keeps nodes whose
// pods have local storage.
const resolverSize = "1Mi"

func resolver(p *podplan.Plan) *Resolver {
	if !p.NoRedirect() {
		return nil
	}
	return &Resolver{
		Volume: node.Object("emptyDir", node.Object("medium", "Memory", "sizeLimit", resolverSize), "name", api.ResolverVolume),
		Mount:  node.Object("mountPath", ResolverPath, "name", api.ResolverVolume, "readOnly", true, "subPath", api.ResolverFile),
		Sysctl: node.Object("name", PortSysctl, "value", PortSysctlValue),
	}
}

// resolverContainer is init without redirect rules. It writes one file, and needs nothing that the proxy does not.
func resolverContainer(p *podplan.Plan) *yaml.Node {
	c := container(api.InitName, p.Init, append([]string{podplan.InitResolver}, p.Redirect.Args()...))
	setResources(c, p.Init.Resources)
	node.Set(c, "securityContext", restricted(p.Redirect.ProxyUID))
	node.Set(c, "terminationMessagePolicy", node.Text("FallbackToLogsOnError"))
	node.Set(c, "volumeMounts", node.List(node.Object("mountPath", api.ResolverDirectory, "name", api.ResolverVolume)))
	return c
}

// MountsResolver is the index of a container's own mount at ResolverPath, or -1.
func MountsResolver(c corev1.Container) int {
	for i, m := range c.VolumeMounts {
		if path.Clean(m.MountPath) == ResolverPath && m.Name != api.ResolverVolume {
			return i
		}
	}
	return -1
}

// PortStart is the index of the pod's own sysctl PortSysctl, or -1.
func PortStart(pod *corev1.PodSpec) int {
	if pod.SecurityContext != nil {
		for i, s := range pod.SecurityContext.Sysctls {
			if s.Name == PortSysctl {
				return i
			}
		}
	}
	return -1
}
