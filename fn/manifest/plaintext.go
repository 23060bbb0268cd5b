package manifest

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// PortName is a port of a Service as api.PlaintextPortsAnnotation writes it, like 53/UDP.
func PortName(p corev1.ServicePort) string { return fmt.Sprintf("%d/%s", p.Port, p.Protocol) }

// readPlaintextPorts reads which ports of a Service are plaintext on purpose. An entry that names none of its ports is
// an error: whoever wrote it meant something.
func (s *Service) readPlaintextPorts(annotations map[string]string, r *report.Report) {
	text, said := annotations[api.PlaintextPortsAnnotation]
	if !said {
		return
	}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		at := slices.IndexFunc(s.Ports, func(p corev1.ServicePort) bool { return !IsTCP(p.Protocol) && PortName(p) == entry })
		if at < 0 {
			r.Error(s.Object, report.Annotation(api.PlaintextPortsAnnotation), "%q is no port of UDP or SCTP of this Service; write it like 53/UDP. What is TCP is left out by %s on the pod template", entry, api.ExcludeInboundPortsAnnotation)
			continue
		}
		s.PlaintextPorts = append(s.PlaintextPorts, entry)
	}
}
