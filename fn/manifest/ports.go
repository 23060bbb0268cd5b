package manifest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/report"
)

// Ports are 32 bits wide in the API of Kubernetes, and 16 in everything that is made of them. One that does not fit
// would silently mean another, so it is refused where it is read, as the API server does.

const notAPort = "%d is no port: want 1 to 65535"

func isPort(number int32) bool { return 1 <= number && number <= 65535 }

// checkContainerPorts refuses ports of a workload's containers that are none.
func checkContainerPorts(w *Workload, r *report.Report) bool {
	good := true
	for field, c := range w.Containers() {
		for i, p := range c.Ports {
			if !isPort(p.ContainerPort) {
				r.Error(w.Object, fmt.Sprintf("%s.ports[%d].containerPort", field, i), notAPort, p.ContainerPort)
				good = false
			}
			if p.HostPort != 0 && !isPort(p.HostPort) {
				r.Error(w.Object, fmt.Sprintf("%s.ports[%d].hostPort", field, i), notAPort, p.HostPort)
				good = false
			}
		}
	}
	return good
}

// checkServicePorts refuses ports of a Service, and their targets, that are none.
func checkServicePorts(ports []corev1.ServicePort, of report.Object, r *report.Report) bool {
	good := true
	for i, p := range ports {
		if !isPort(p.Port) {
			r.Error(of, fmt.Sprintf("spec.ports[%d].port", i), notAPort, p.Port)
			good = false
		}
		if t := p.TargetPort; t.Type == intstr.Int && t.IntVal != 0 && !isPort(t.IntVal) {
			r.Error(of, fmt.Sprintf("spec.ports[%d].targetPort", i), notAPort, t.IntVal)
			good = false
		}
	}
	return good
}
