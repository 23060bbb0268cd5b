package manifest

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Overrides are what the annotations of one pod template say, beside the config.
type Overrides struct {
	Disabled                                            bool
	ExcludeInboundPorts                                 netset.Ports
	ExcludeOutboundPorts                                netset.Ports
	ExcludeOutboundCIDRs                                netset.Prefixes
	ExcludeInboundInterfaces, ExcludeOutboundInterfaces netset.Interfaces
	ExcludeOutboundUIDs                                 netset.UIDs
	PermissivePorts, TLSPassthroughPorts, StrictPorts   netset.Ports
	TransparentPorts                                    netset.Ports // on which the app sees its clients' own addresses
	ProxyProtocolPorts                                  netset.Ports // on which the app reads a PROXY protocol header
	// requests of the proxy; Memory is its limit as well, unless MemoryLimit says another
	CPU, Memory           string
	CPULimit, MemoryLimit string
	QOSClass              string // of v1alpha1.QOSClass
	Image, LogLevel       string
	Pprof                 bool                  // the proxy serves its profiles on loopback
	Redirect              v1alpha1.RedirectMode // "" where the config decides
	AppAddress            podplan.AppAddress    // "" where nobody says
	// the user's Secret that holds leaf and key; "" when they are issued
	TLSSecret string
}

// resources tells whether any says what the proxy gets.
func (o Overrides) resources() bool {
	return cmp.Or(o.CPU, o.Memory, o.CPULimit, o.MemoryLimit) != ""
}

// overrideParsers are the annotations that a person may set on a pod template.
var overrideParsers = map[string]func(o *Overrides, value string) error{
	api.InjectAnnotation: func(o *Overrides, value string) error {
		o.Disabled = value == "disabled"
		return enabledOrDisabled(value)
	},
	api.PprofAnnotation: func(o *Overrides, value string) error {
		o.Pprof = value == "enabled"
		return enabledOrDisabled(value)
	},
	api.ExcludeInboundPortsAnnotation:       set(func(o *Overrides) *netset.Ports { return &o.ExcludeInboundPorts }),
	api.ExcludeOutboundPortsAnnotation:      set(func(o *Overrides) *netset.Ports { return &o.ExcludeOutboundPorts }),
	api.ProxyProtocolPortsAnnotation:        set(func(o *Overrides) *netset.Ports { return &o.ProxyProtocolPorts }),
	api.PermissivePortsAnnotation:           set(func(o *Overrides) *netset.Ports { return &o.PermissivePorts }),
	api.TLSPassthroughPortsAnnotation:       set(func(o *Overrides) *netset.Ports { return &o.TLSPassthroughPorts }),
	api.TransparentPortsAnnotation:          set(func(o *Overrides) *netset.Ports { return &o.TransparentPorts }),
	api.StrictPortsAnnotation:               set(func(o *Overrides) *netset.Ports { return &o.StrictPorts }),
	api.ExcludeOutboundCIDRsAnnotation:      set(func(o *Overrides) *netset.Prefixes { return &o.ExcludeOutboundCIDRs }),
	api.ExcludeInboundInterfacesAnnotation:  set(func(o *Overrides) *netset.Interfaces { return &o.ExcludeInboundInterfaces }),
	api.ExcludeOutboundInterfacesAnnotation: set(func(o *Overrides) *netset.Interfaces { return &o.ExcludeOutboundInterfaces }),
	api.ExcludeOutboundUIDsAnnotation:       set(func(o *Overrides) *netset.UIDs { return &o.ExcludeOutboundUIDs }),
	api.ProxyCPUAnnotation:                  quantity(func(o *Overrides) *string { return &o.CPU }),
	api.ProxyMemoryAnnotation:               quantity(func(o *Overrides) *string { return &o.Memory }),
	api.ProxyCPULimitAnnotation:             quantity(func(o *Overrides) *string { return &o.CPULimit }),
	api.ProxyMemoryLimitAnnotation:          quantity(func(o *Overrides) *string { return &o.MemoryLimit }),
	api.QOSClassAnnotation:                  text(func(o *Overrides) *string { return &o.QOSClass }, checkQOSClass),
	api.ProxyImageAnnotation:                text(func(o *Overrides) *string { return &o.Image }, v1alpha1.ValidateImage),
	api.RedirectAnnotation:                  oneOf(func(o *Overrides) *v1alpha1.RedirectMode { return &o.Redirect }, v1alpha1.RedirectRules, v1alpha1.RedirectNone),
	api.AppAddressAnnotation:                oneOf(func(o *Overrides) *podplan.AppAddress { return &o.AppAddress }, podplan.AppPod, podplan.AppLoopback),
	api.TLSSecretAnnotation:                 text(func(o *Overrides) *string { return &o.TLSSecret }, checkSecretName),
	api.LogLevelAnnotation:                  text(func(o *Overrides) *string { return &o.LogLevel }, podplan.ValidateLogLevel),
}

func enabledOrDisabled(value string) error {
	if value != "enabled" && value != "disabled" {
		return errNotOneOf("enabled", "disabled")
	}
	return nil
}

func checkQOSClass(value string) error {
	if keep, ignore := string(v1alpha1.QOSClassKeep), string(v1alpha1.QOSClassIgnore); value != keep && value != ignore {
		return errNotOneOf(keep, ignore)
	}
	return nil
}

// checkSecretName refuses names that no Secret of a user's has.
func checkSecretName(name string) error {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return fmt.Errorf("%q is not the name of a Secret", name)
	}
	if strings.HasPrefix(name, api.NamePrefix) {
		return fmt.Errorf("%q is a name as meshless gives it to its own Secrets, which come and go; give yours another", name)
	}
	return nil
}

func set[T encoding.TextUnmarshaler](field func(*Overrides) T) func(*Overrides, string) error {
	return func(o *Overrides, value string) error { return field(o).UnmarshalText([]byte(value)) }
}

func text(field func(*Overrides) *string, check func(string) error) func(*Overrides, string) error {
	return func(o *Overrides, value string) error {
		*field(o) = value
		return check(value)
	}
}

// oneOf is an annotation that has one of two values.
func oneOf[T ~string](field func(*Overrides) *T, one, other T) func(*Overrides, string) error {
	return func(o *Overrides, value string) error {
		*field(o) = T(value)
		if value != string(one) && value != string(other) {
			return errNotOneOf(string(one), string(other))
		}
		return nil
	}
}

func quantity(field func(*Overrides) *string) func(*Overrides, string) error {
	return text(field, func(value string) error {
		if q, err := resource.ParseQuantity(value); err != nil || q.Sign() <= 0 {
			return errNotOneOf("a quantity like 100m or 64Mi")
		}
		return nil
	})
}

// readOverrides reads the annotations of a pod template. An unknown or malformed one is an error: whoever wrote it
// meant something.
func (m *Model) readOverrides(w *Workload, r *report.Report) (Overrides, bool) {
	var o Overrides
	good := true
	for _, key := range slices.Sorted(maps.Keys(w.Pod.Annotations)) {
		name, ours := strings.CutPrefix(key, api.AnnotationPrefix)
		if !ours {
			continue
		}
		field := w.Field(report.Annotation(key))
		parse, known := overrideParsers[key]
		if !known {
			r.Error(w.Object, field, "is unknown; known are %s", strings.Join(slices.Sorted(maps.Keys(overrideParsers)), ", "))
			good = false
		} else if !slices.Contains(m.Spec.Workloads.Overrides, name) {
			r.Error(w.Object, field, "is not among the annotations that spec.workloads.overrides of the config allows: take it out, or have whoever owns the config allow %q", name)
			good = false
		} else if err := parse(&o, w.Pod.Annotations[key]); err != nil {
			r.Error(w.Object, field, "%v", err)
			good = false
		}
	}
	return o, good
}

// refuseStrayAnnotations reports annotations of ours where they do nothing.
func refuseStrayAnnotations(item *yaml.RNode, r *report.Report) {
	for _, key := range slices.Sorted(maps.Keys(item.GetAnnotations())) {
		if strings.HasPrefix(key, api.AnnotationPrefix) && (key != api.InjectAnnotation || !leftOut(item)) {
			r.ErrorIn(item, report.Annotation(key), "has no effect here; write it on the pod template (spec.template.metadata.annotations)")
		}
	}
}

// refuseServiceAnnotations reports annotations of ours on a Service but for those that it takes.
func refuseServiceAnnotations(s corev1.Service, object report.Object, r *report.Report) {
	for _, key := range slices.Sorted(maps.Keys(s.Annotations)) {
		if strings.HasPrefix(key, api.AnnotationPrefix) && key != api.WorkloadsAnnotation && key != api.PlaintextPortsAnnotation {
			r.Error(object, report.Annotation(key), "has no effect on a Service, which takes %s and %s; the others belong on the pod template (spec.template.metadata.annotations)", api.WorkloadsAnnotation, api.PlaintextPortsAnnotation)
		}
	}
}

func errNotOneOf(allowed ...string) error {
	return errors.New("is not " + strings.Join(allowed, " or "))
}
