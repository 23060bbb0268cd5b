package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/contract"
)

// Overrides are what the annotations of one pod template say, beside the config.
type Overrides struct {
	Disabled                                            bool
	ExcludeInboundPorts                                 contract.Ports
	ExcludeOutboundPorts                                contract.Ports
	ExcludeOutboundCIDRs                                []netip.Prefix
	ExcludeInboundInterfaces, ExcludeOutboundInterfaces contract.Interfaces
	ExcludeOutboundUIDs                                 contract.UIDs
	PermissivePorts                                     contract.Ports
	ProxyProtocolPorts                                  contract.Ports // on which the app reads a PROXY protocol header
	CPU, Memory                                         string         // requests of the proxy; Memory is its limit as well
	Image, LogLevel                                     string
	Pprof                                               bool   // the proxy serves its profiles on loopback
	TLSSecret                                           string // the user's Secret that holds leaf and key; "" when they are issued
}

// overrideParsers are the annotations that a person may set on a pod template.
var overrideParsers = map[string]func(o *Overrides, value string) error{
	contract.InjectAnnotation: func(o *Overrides, value string) error {
		o.Disabled = value == "disabled"
		return enabledOrDisabled(value)
	},
	contract.PprofAnnotation: func(o *Overrides, value string) error {
		o.Pprof = value == "enabled"
		return enabledOrDisabled(value)
	},
	contract.ExcludeInboundPortsAnnotation:  ports(func(o *Overrides) *contract.Ports { return &o.ExcludeInboundPorts }),
	contract.ExcludeOutboundPortsAnnotation: ports(func(o *Overrides) *contract.Ports { return &o.ExcludeOutboundPorts }),
	contract.ProxyProtocolPortsAnnotation:   ports(func(o *Overrides) *contract.Ports { return &o.ProxyProtocolPorts }),
	contract.PermissivePortsAnnotation:      ports(func(o *Overrides) *contract.Ports { return &o.PermissivePorts }),
	contract.ExcludeOutboundCIDRsAnnotation: func(o *Overrides, value string) (err error) {
		o.ExcludeOutboundCIDRs, err = contract.ParsePrefixes(value)
		return err
	},
	contract.ExcludeInboundInterfacesAnnotation: func(o *Overrides, value string) error { return o.ExcludeInboundInterfaces.UnmarshalText([]byte(value)) },
	contract.ExcludeOutboundInterfacesAnnotation: func(o *Overrides, value string) error {
		return o.ExcludeOutboundInterfaces.UnmarshalText([]byte(value))
	},
	contract.ExcludeOutboundUIDsAnnotation: func(o *Overrides, value string) error { return o.ExcludeOutboundUIDs.UnmarshalText([]byte(value)) },
	contract.ProxyCPUAnnotation:            quantity(func(o *Overrides) *string { return &o.CPU }),
	contract.ProxyMemoryAnnotation:         quantity(func(o *Overrides) *string { return &o.Memory }),
	contract.ProxyImageAnnotation: func(o *Overrides, value string) error {
		o.Image = value
		return v1alpha1.ValidateImage(value)
	},
	contract.TLSSecretAnnotation: func(o *Overrides, value string) error {
		o.TLSSecret = value
		return checkSecretName(value)
	},
	contract.LogLevelAnnotation: func(o *Overrides, value string) error {
		o.LogLevel = value
		return contract.ValidateLogLevel(value)
	},
}

func enabledOrDisabled(value string) error {
	if value != "enabled" && value != "disabled" {
		return errNotOneOf("enabled", "disabled")
	}
	return nil
}

// checkSecretName refuses names that no Secret of a user's has.
func checkSecretName(name string) error {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return fmt.Errorf("%q is not the name of a Secret", name)
	}
	if strings.HasPrefix(name, contract.NamePrefix) {
		return fmt.Errorf("%q is a name as meshless gives it to its own Secrets, which come and go; give yours another", name)
	}
	return nil
}

func ports(field func(*Overrides) *contract.Ports) func(*Overrides, string) error {
	return func(o *Overrides, value string) (err error) {
		*field(o), err = contract.ParsePorts(value)
		return err
	}
}

func quantity(field func(*Overrides) *string) func(*Overrides, string) error {
	return func(o *Overrides, value string) error {
		q, err := resource.ParseQuantity(value)
		if err != nil || q.Sign() <= 0 {
			return errNotOneOf("a quantity like 100m or 64Mi")
		}
		*field(o) = value
		return nil
	}
}

// readOverrides reads the annotations of a pod template. An unknown or malformed one is an error: whoever wrote it meant something.
func readOverrides(w *Workload, r *report.Report) (Overrides, bool) {
	var o Overrides
	good := true
	for _, key := range slices.Sorted(maps.Keys(w.Pod.Annotations)) {
		if !ours(key) || key == contract.WorkloadAnnotation || key == contract.OriginalAnnotation {
			continue
		}
		field := w.Field("metadata.annotations[" + key + "]")
		parse, known := overrideParsers[key]
		if !known {
			r.Error(w.Object, field, "is unknown; known are %s", strings.Join(slices.Sorted(maps.Keys(overrideParsers)), ", "))
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
		if ours(key) {
			r.Error(report.ObjectOf(item), "metadata.annotations["+key+"]", "has no effect here; write it on the pod template (spec.template.metadata.annotations)")
		}
	}
}

func ours(annotation string) bool { return strings.HasPrefix(annotation, contract.AnnotationPrefix) }

type notOneOf []string

func errNotOneOf(allowed ...string) error { return notOneOf(allowed) }

func (n notOneOf) Error() string { return "is not " + strings.Join(n, " or ") }
