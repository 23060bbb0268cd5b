package v1alpha1

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// FieldError is one mistake in a config. The message never quotes a value that may be a secret.
type FieldError = meshmap.FieldError

// Mistakes are the mistakes of an error of Load or Validate, in its order; one without a field has no Path.
func Mistakes(err error) []FieldError {
	if err == nil {
		return nil
	}
	var field FieldError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []FieldError
		for _, mistake := range joined.Unwrap() {
			all = append(all, Mistakes(mistake)...)
		}
		return all
	}
	if !errors.As(err, &field) {
		field.Path, field.Message = node.FieldOf(err)
	}
	return []FieldError{field}
}

// Load reads a config: kind MutualTLS of this API version, or a ConfigMap as kpt makes it of an inline configMap. It is
// strict, then defaulted, then validated. The error joins every mistake found, each a FieldError where it has a field.
func Load(n *yaml.RNode) (*MutualTLS, error) {
	if yaml.IsMissingOrNull(n) {
		return nil, fmt.Errorf("functionConfig is missing; give a %s of %s with at least spec.sealing.recipients and "+
			"spec.certificates.ca.recipients", KindMutualTLS, APIVersion)
	}
	config := &MutualTLS{}
	var apiVersion, kind string
	if n.YNode().Kind == yaml.MappingNode { // kyaml takes a list for one, and fails
		apiVersion, kind = n.GetApiVersion(), n.GetKind()
	}
	var err error
	switch {
	case apiVersion == APIVersion && kind == KindMutualTLS:
		err = errors.Join(decodeStrict(n, config), refuseRoot(n))
	case apiVersion == "v1" && kind == "ConfigMap":
		err = config.fromConfigMap(n)
	default:
		err = fmt.Errorf("functionConfig is %q of %q; want %s of %s, or a ConfigMap of v1", kind, apiVersion, KindMutualTLS, APIVersion)
	}
	if err != nil {
		return nil, err
	}
	config.Default()
	return config, config.Validate()
}

// refuseRoot refuses a user of 0, which reads like one that was left out.
func refuseRoot(n *yaml.RNode) error {
	uid := node.Get(n.YNode(), "spec", "sidecar", "uid")
	var number int64
	if uid == nil || uid.ShortTag() == yaml.NodeTagNull || uid.Decode(&number) != nil || number != 0 {
		return nil
	}
	return FieldError{Path: "spec.sidecar.uid", Message: "0 is not the id of a non-root user"}
}

// Default fills in what was left out.
func (c *MutualTLS) Default() {
	s := &c.Spec
	fill(&s.TrustDomain, api.DefaultDomain)
	fill(&s.ClusterDomain, api.DefaultDomain)
	fill(&s.Issuance, IssuanceAuto)
	s.defaultIssuer()
	fill(&s.Certificates.KeyAlgorithm, "ECDSA-P256")
	fill(&s.Certificates.Validity.Duration, 720*time.Hour)
	fill(&s.Certificates.RenewBefore.Duration, s.Certificates.Validity.Duration/2)
	fill(&s.TLS.MinVersion, VersionTLS13)
	if s.Workloads.Overrides == nil {
		s.Workloads.Overrides = DefaultOverrides()
	}
	fill(&s.Inbound.Mode, meshmap.Strict)
	fill(&s.Outbound.Unknown, meshmap.Passthrough)
	fill(&s.Redirect.Mode, RedirectRules)
	fill(&s.Authorization.Mode, AuthorizationEnforce)
	fill(&s.Authorization.Default, meshmap.AllowMesh)
	fill(&s.Sidecar.Mode, NativeSidecar)
	fill(&s.Sidecar.UID, api.DefaultUID)
	fill(&s.Proxy.Image, api.ProxyImage)
	fill(&s.Proxy.LogLevel, "info")
	fill(&s.Proxy.Records, podplan.RecordsOwn)
	fill(&s.Init.Backend, podplan.BackendAuto)
	if s.Init.Backend == podplan.BackendIPTables {
		fill(&s.Init.Image, api.InitIPTablesImage)
	}
	fill(&s.Init.Image, api.InitImage)
}

// DefaultOverrides are the annotations that pod templates may use where the config does not say: all but the one that
// chooses the proxy's program.
func DefaultOverrides() []string {
	return slices.DeleteFunc(slices.Clone(api.Overrides), func(name string) bool { return api.AnnotationPrefix+name == api.ProxyImageAnnotation })
}

// fromConfigMap reads the flat keys that people write under configMap: in a Kptfile.
func (c *MutualTLS) fromConfigMap(n *yaml.RNode) error {
	setters := map[string]func(string) error{
		"trustDomain":         text(&c.Spec.TrustDomain),
		"clusterDomain":       text(&c.Spec.ClusterDomain),
		"issuance":            text(&c.Spec.Issuance),
		"sealingFormat":       text(&c.Spec.Sealing.Format),
		"recipients":          list(&c.Spec.Sealing.Recipients),
		"caRecipients":        list(&c.Spec.Certificates.CA.Recipients),
		"identitySecret":      text(&c.Spec.Sealing.IdentitySecret.Name),
		"keyAlgorithm":        text(&c.Spec.Certificates.KeyAlgorithm),
		"validity":            duration(&c.Spec.Certificates.Validity),
		"renewBefore":         duration(&c.Spec.Certificates.RenewBefore),
		"signingPeriod":       duration(&c.Spec.Certificates.CA.SigningPeriod),
		"inboundMode":         text(&c.Spec.Inbound.Mode),
		"outboundUnknown":     text(&c.Spec.Outbound.Unknown),
		"redirectMode":        text(&c.Spec.Redirect.Mode),
		"authorizationMode":   text(&c.Spec.Authorization.Mode),
		"defaultPolicy":       text(&c.Spec.Authorization.Default),
		"fromNetworkPolicies": boolean(&c.Spec.Authorization.FromNetworkPolicies),
		"sidecarMode":         text(&c.Spec.Sidecar.Mode),
		"qosClass":            text(&c.Spec.Sidecar.QOSClass),
		"proxyImage":          text(&c.Spec.Proxy.Image),
		"initImage":           text(&c.Spec.Init.Image),
		"logLevel":            text(&c.Spec.Proxy.LogLevel),
		"idleTimeout":         duration(&c.Spec.Proxy.IdleTimeout),
		"fips140":             boolean(&c.Spec.Proxy.FIPS140),
		"records":             text(&c.Spec.Proxy.Records),
	}
	c.TypeMeta = metav1.TypeMeta{APIVersion: APIVersion, Kind: KindMutualTLS}
	c.Name = n.GetName()
	data := n.GetDataMap()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		set, known := setters[key]
		if !known {
			return FieldError{Path: "data." + key, Message: "is unknown; known are " + strings.Join(slices.Sorted(maps.Keys(setters)), ", ") + "; everything else needs a MutualTLS object"}
		}
		if err := set(data[key]); err != nil {
			return FieldError{Path: "data." + key, Message: err.Error()}
		}
	}
	return nil
}

func text[T ~string](to *T) func(string) error {
	return func(s string) error { *to = T(strings.TrimSpace(s)); return nil }
}

// list splits at commas and white space, as people write several recipients in one value.
func list(to *[]string) func(string) error {
	return func(s string) error {
		*to = strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
		return nil
	}
}

func boolean(to *bool) func(string) error {
	return func(s string) error {
		switch strings.TrimSpace(s) {
		case "true":
			*to = true
		case "false":
			*to = false
		default:
			return errors.New("is neither true nor false")
		}
		return nil
	}
}

func duration(to *metav1.Duration) func(string) error {
	return func(s string) (err error) {
		if to.Duration, err = time.ParseDuration(strings.TrimSpace(s)); err != nil {
			return errors.New("is not a duration like 720h")
		}
		return nil
	}
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// decodeStrict reads a node into a struct; unknown and repeated fields are errors that carry their whole path.
func decodeStrict(n *yaml.RNode, into any) error {
	if err := node.CheckAliases(n.YNode()); err != nil {
		return err
	}
	mistakes, err := node.DecodeStrict(n, into)
	if err != nil {
		return err
	}
	return errors.Join(mistakes...)
}
