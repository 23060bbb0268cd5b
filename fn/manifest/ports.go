package manifest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

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

// checkPortName refuses a name that no port has (IANA_SVC_NAME): nothing would answer by it.
func checkPortName(of report.Object, field, name string, r *report.Report) bool {
	problems := validation.IsValidPortName(name)
	if name == "" || len(problems) == 0 {
		return true
	}
	r.Error(of, field, "%q is no name of a port: %s", name, problems[0])
	return false
}

// checkContainerPorts refuses ports of a workload's containers that are none.
func checkContainerPorts(w *Workload, r *report.Report) bool {
	good := true
	for field, c := range w.Containers() {
		for i, p := range c.Ports {
			good = checkPort(w.Object, fmt.Sprintf("%s.ports[%d].containerPort", field, i), p.ContainerPort, r) && good
			good = checkPortName(w.Object, fmt.Sprintf("%s.ports[%d].name", field, i), p.Name, r) && good
			if p.HostPort != 0 {
				good = checkPort(w.Object, fmt.Sprintf("%s.ports[%d].hostPort", field, i), p.HostPort, r) && good
			}
		}
	}
	return good
}

// checkServicePorts refuses ports of a Service, their targets and their ports of the nodes that are none.
func checkServicePorts(ports []corev1.ServicePort, of report.Object, r *report.Report) bool {
	good := true
	for i, p := range ports {
		good = checkPort(of, fmt.Sprintf("spec.ports[%d].port", i), p.Port, r) && good
		if t, field := p.TargetPort, fmt.Sprintf("spec.ports[%d].targetPort", i); t.Type == intstr.String {
			good = checkPortName(of, field, t.StrVal, r) && good
		} else if t.IntVal != 0 {
			good = checkPort(of, field, t.IntVal, r) && good
		}
		if p.NodePort != 0 {
			good = checkPort(of, fmt.Sprintf("spec.ports[%d].nodePort", i), p.NodePort, r) && good
		}
	}
	return good
}
