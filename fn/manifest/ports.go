package manifest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/report"
)

// checkPort refuses a number that is no port, as the API server does. Ports are 32 bits wide in the API of Kubernetes,
// and 16 in everything that is made of them: one that does not fit would silently mean another.
func checkPort(of report.Object, field string, number int32, r *report.Report) bool {
	if 1 <= number && number <= 65535 {
		return true
	}
	r.Error(of, field, "%d is no port: want 1 to 65535", number)
	return false
}

// checkContainerPorts refuses ports of a workload's containers that are none.
func checkContainerPorts(w *Workload, r *report.Report) bool {
	good := true
	for field, c := range w.Containers() {
		for i, p := range c.Ports {
			good = checkPort(w.Object, fmt.Sprintf("%s.ports[%d].containerPort", field, i), p.ContainerPort, r) && good
			if p.HostPort != 0 {
				good = checkPort(w.Object, fmt.Sprintf("%s.ports[%d].hostPort", field, i), p.HostPort, r) && good
			}
		}
	}
	return good
}

// checkServicePorts refuses ports of a Service, and their targets, that are none.
func checkServicePorts(ports []corev1.ServicePort, of report.Object, r *report.Report) bool {
	good := true
	for i, p := range ports {
		good = checkPort(of, fmt.Sprintf("spec.ports[%d].port", i), p.Port, r) && good
		if t := p.TargetPort; t.Type == intstr.Int && t.IntVal != 0 {
			good = checkPort(of, fmt.Sprintf("spec.ports[%d].targetPort", i), t.IntVal, r) && good
		}
	}
	return good
}
