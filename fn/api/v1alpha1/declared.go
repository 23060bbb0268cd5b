package v1alpha1

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshless-dev/meshless/internal/api"
)

// DeclaredWorkload is a workload whose pods no manifest of the input makes, such as an operator's. Its pods are
// injected when they are made, by admission policies that the render writes: Kubernetes 1.36 and later. See
// databases.md.
type DeclaredWorkload struct {
	// of what makes the pods, like Cluster; in the identity in lower case
	Kind      string `json:"kind"`
	Name      string `json:"name"`      // of what makes the pods, as a rule
	Namespace string `json:"namespace"` // of the pods
	// on the labels that its pods are made with; at least one label must be there
	Selector metav1.LabelSelector `json:"selector"`
	Ports    []DeclaredPort       `json:"ports,omitempty"` // of its containers, TCP
	// as on a pod template, see annotations.md; those of the pods themselves do not count
	Annotations map[string]string `json:"annotations,omitempty"`
	// Services that lead to it and that the input lacks, such as an operator's
	Services []DeclaredService `json:"services,omitempty"`
}

// DeclaredPort is a TCP port of the containers.
type DeclaredPort struct {
	Name string `json:"name,omitempty"` // by which targetPort of a Service may name it
	Port int32  `json:"port"`           // like 5432
}

// DeclaredService is a Service in the namespace of the workload that the input lacks.
type DeclaredService struct {
	Name  string                `json:"name"`  // like pg-rw
	Ports []DeclaredServicePort `json:"ports"` // TCP
}

// DeclaredServicePort is a TCP port of a Service.
type DeclaredServicePort struct {
	Name string `json:"name,omitempty"` // as in the Service
	Port int32  `json:"port"`           // like 5432
	// number or name of a port of the containers; default port
	TargetPort intstr.IntOrString `json:"targetPort,omitzero"`
}

// kindName is what can be a kind.
var kindName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,62}$`)

func (v *validator) declared(list []DeclaredWorkload) {
	for i, d := range list {
		field := fmt.Sprintf("spec.workloads.declared[%d]", i)
		if !kindName.MatchString(d.Kind) {
			v.fail(field+".kind", "%q is not a kind like Cluster", d.Kind)
		}
		if len(validation.IsDNS1123Subdomain(d.Name)) > 0 {
			v.fail(field+".name", "%q is not the name of an object", d.Name)
		}
		if len(validation.IsDNS1123Label(d.Namespace)) > 0 {
			v.fail(field+".namespace", "%q is not the name of a namespace", d.Namespace)
		}
		v.declaredSelector(field+".selector", d.Selector)
		v.declaredAnnotations(field, d.Annotations)
		for j, p := range d.Ports {
			v.declaredPort(fmt.Sprintf("%s.ports[%d]", field, j), p)
		}
		v.declaredServices(field, d.Services)
	}
}

func (v *validator) declaredAnnotations(field string, annotations map[string]string) {
	if annotations[api.InjectAnnotation] == "disabled" {
		v.fail(field+".annotations["+api.InjectAnnotation+"]", "takes the workload out of the mesh, and declaring it takes it in: take out one of the two")
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, api.AnnotationPrefix) {
			v.fail(field+".annotations["+key+"]", "is none of %s*: no pod gets it, so it has no effect", api.AnnotationPrefix)
		}
	}
}

func (v *validator) declaredServices(field string, services []DeclaredService) {
	for i, s := range services {
		at := fmt.Sprintf("%s.services[%d]", field, i)
		if len(validation.IsDNS1123Label(s.Name)) > 0 {
			v.fail(at+".name", "%q is not the name of a Service", s.Name)
		}
		if slices.ContainsFunc(services[:i], func(other DeclaredService) bool { return other.Name == s.Name }) {
			v.fail(at+".name", "%q stands twice", s.Name)
		}
		if len(s.Ports) == 0 {
			v.fail(at+".ports", "is empty: a Service has ports")
		}
		for j, p := range s.Ports {
			v.declaredServicePort(fmt.Sprintf("%s.ports[%d]", at, j), p)
		}
	}
}

func (v *validator) declaredPort(field string, p DeclaredPort) {
	v.portNumber(field+".port", p.Port)
	if slices.Contains(api.ReservedPorts, int(p.Port)) {
		v.fail(field+".port", "%d is the proxy's; the containers must use another", p.Port)
	}
	if problems := validation.IsValidPortName(p.Name); p.Name != "" && len(problems) > 0 {
		v.fail(field+".name", "%q is no name of a port: %s", p.Name, problems[0])
	}
}

func (v *validator) declaredServicePort(field string, p DeclaredServicePort) {
	v.portNumber(field+".port", p.Port)
	switch {
	case p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0:
		v.portNumber(field+".targetPort", p.TargetPort.IntVal)
	case p.TargetPort.Type == intstr.String:
		if problems := validation.IsValidPortName(p.TargetPort.StrVal); len(problems) > 0 {
			v.fail(field+".targetPort", "%q is no name of a port: %s", p.TargetPort.StrVal, problems[0])
		}
	}
}

func (v *validator) portNumber(field string, port int32) {
	if port < 1 || port > 65535 {
		v.fail(field, "%d is no port: want 1 to 65535", port)
	}
}

// declaredSelector refuses selectors that also select pods of which nothing is known.
func (v *validator) declaredSelector(field string, s metav1.LabelSelector) {
	if _, err := metav1.LabelSelectorAsSelector(&s); err != nil {
		v.fail(field, "%v", err)
		return
	}
	needs := func(e metav1.LabelSelectorRequirement) bool {
		return e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpExists
	}
	if len(s.MatchLabels) == 0 && !slices.ContainsFunc(s.MatchExpressions, needs) {
		v.fail(field, "demands no label, so it selects pods of others; set matchLabels, or a matchExpressions with In or Exists")
	}
}
