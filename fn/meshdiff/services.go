package meshdiff

import (
	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/internal/netset"
)

// front is a Service: the class of who is behind it, and its ports.
type front struct {
	class graph.Class
	graph.Service
}

// classText words where a Service leads.
var classText = map[graph.Class]string{
	graph.Mesh:     "is in the mesh",
	graph.Outside:  "leads to workloads outside of the mesh",
	graph.External: "leads out of the mesh",
	graph.Unknown:  "leads to nobody knows whom",
}

func (c *comparison) compareServices() {
	before, now := c.base.fronts(), c.head.fronts()
	for name, is := range now {
		was, known := before[name]
		said := classText[is.class]
		if !known && len(is.Ports) > 0 {
			said += ", " + portsText(is.Ports)
			was.Ports = is.Ports
		}
		if !known || was.class != is.class {
			c.sayIf(services, is.class != graph.Mesh, Weaker, Gained, "service %s: %s", name, said)
		}
		if ports := is.Ports.Minus(was.Ports); len(ports) > 0 {
			c.say(services, Gained, "service %s: has %s", name, portsText(ports))
		}
		if ports := was.Ports.Minus(is.Ports); len(ports) > 0 {
			c.say(services, Lost, "service %s: has %s no longer", name, portsText(ports))
		}
		for _, port := range added(was.PlaintextPorts, is.PlaintextPorts) {
			c.say(services, Weaker, "service %s: has port %s, which is in the clear", name, port)
		}
		for _, port := range added(is.PlaintextPorts, was.PlaintextPorts) {
			c.say(services, Lost, "service %s: has port %s no longer", name, port)
		}
	}
	for name := range before {
		if _, there := now[name]; !there {
			c.say(services, Lost, "service %s: is gone", name)
		}
	}
}

// fronts are the Services by namespace and name. One with a workload of the mesh behind it is in the mesh.
func (s *Side) fronts() map[string]front {
	fronts := map[string]front{}
	for _, n := range s.graph.Nodes {
		for _, service := range n.Services {
			name := n.Namespace + "/" + service.Name
			if old, there := fronts[name]; !there || old.class == graph.Outside {
				fronts[name] = front{n.Class, service}
			}
		}
	}
	return fronts
}

// portsOf are the ports of a rule, of which none means every port.
func portsOf(ports netset.Ports) netset.Ports {
	if len(ports) == 0 {
		return everyPort
	}
	return ports
}
