package lint

import (
	"fmt"
	"slices"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// warnPlaintextPorts warns of ports that no proxy protects, since they are not of TCP.
func warnPlaintextPorts(m *manifest.Model, r *report.Report) {
	for _, s := range m.Services {
		for i, p := range s.Ports {
			if manifest.IsTCP(p.Protocol) {
				continue
			}
			if name := manifest.PortName(p); !slices.Contains(s.PlaintextPorts, name) {
				r.Warn(s.Object, fmt.Sprintf("spec.ports[%d].protocol", i), "port %d is %s, which passes beside the proxy: in plaintext, from and to anybody; the mesh protects TCP alone. Take the protocol that runs on TCP, or one with encryption of its own; "+
					"where plaintext is meant, say so with the annotation %s: %s on the Service", p.Port, p.Protocol, api.PlaintextPortsAnnotation, name)
			}
		}
	}
}
