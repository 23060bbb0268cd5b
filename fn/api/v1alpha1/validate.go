package v1alpha1

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/clientaddr"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// KeyAlgorithms are the values of spec.certificates.keyAlgorithm.
var KeyAlgorithms = []string{"ECDSA-P256", "ECDSA-P384", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096"}

// Limits of certificate lifetimes. Shorter leaves would expire between a render, its review and its sync.
const (
	minValidity      = time.Hour
	maxValidity      = 366 * 24 * time.Hour
	minSigningPeriod = time.Hour
	maxSigningPeriod = 10 * 366 * 24 * time.Hour

	// maxPeriods is how many signing periods a leaf may live: as long as it lives its authority is in the bundle, one
	// for each period, and a ConfigMap has its limits.
	maxPeriods = 100
)

// minIdleTimeout is above the pauses between two requests of the same client.
const minIdleTimeout = time.Minute

// Validate checks a defaulted config and joins every mistake. Package seal, which knows age, checks the recipients.
func (c *MutualTLS) Validate() error {
	v := &validator{}
	v.identity(c.Spec)
	v.certificates(c.Spec.Certificates)
	v.issuer(c.Spec)
	v.enums(c.Spec)
	v.tls(c.Spec.TLS)
	v.workloads(c.Spec.Workloads)
	v.redirect(c.Spec.Redirect)
	v.rules(c.Spec)
	v.federation(c.Spec)
	v.images(c.Spec)
	return errors.Join(v.errs...)
}

type validator struct{ errs []error }

func (v *validator) fail(path, format string, args ...any) {
	v.errs = append(v.errs, FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (v *validator) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.fail(path, "%q is not supported; want %s", value, strings.Join(allowed, ", "))
	}
}

func (v *validator) identity(s Spec) {
	if td, err := spiffeid.TrustDomainFromString(s.TrustDomain); err != nil {
		v.fail("spec.trustDomain", "%q is not a SPIFFE trust domain (lower-case letters, digits, '.', '-', '_')", s.TrustDomain)
	} else if td.Name() != s.TrustDomain {
		v.fail("spec.trustDomain", "%q: write the name alone, %q", s.TrustDomain, td.Name())
	}
	if problems := validation.IsDNS1123Subdomain(s.ClusterDomain); len(problems) > 0 {
		v.fail("spec.clusterDomain", "%q is not a DNS suffix like cluster.local", s.ClusterDomain)
	}
}

func (v *validator) certificates(c Certificates) {
	v.oneOf("spec.certificates.keyAlgorithm", c.KeyAlgorithm, KeyAlgorithms...)
	v.within("spec.certificates.validity", c.Validity.Duration, minValidity, maxValidity)
	if left, life := c.RenewBefore.Duration, c.Validity.Duration; left <= 0 || left >= life {
		v.fail("spec.certificates.renewBefore", "%s must be more than zero and less than validity, %s: otherwise every render is due", left, life)
	}
}

// periods keeps the bundle small.
func (v *validator) periods(validity, period time.Duration) {
	if period > 0 && validity/maxPeriods > period {
		v.fail("spec.certificates.ca.signingPeriod", "%s is less than a hundredth of validity, %s: every authority stays in the bundle until its last leaf has expired, and the bundle would "+
			"outgrow its ConfigMap", period, validity)
	}
}

func (v *validator) within(path string, d, low, high time.Duration) {
	if d < low || d > high {
		v.fail(path, "%s is outside of %s to %s", d, low, high)
	}
}

func (v *validator) enums(s Spec) {
	v.oneOf("spec.issuance", string(s.Issuance), string(IssuanceAuto), string(IssuanceNever))
	v.oneOf("spec.inbound.mode", string(s.Inbound.Mode), string(meshmap.Strict), string(meshmap.Permissive))
	v.oneOf("spec.outbound.unknown", string(s.Outbound.Unknown), string(meshmap.Passthrough), string(meshmap.DenyUnknown))
	v.oneOf("spec.authorization.mode", string(s.Authorization.Mode), string(AuthorizationEnforce), string(AuthorizationDryRun))
	v.oneOf("spec.authorization.default", string(s.Authorization.Default), string(meshmap.AllowMesh), string(meshmap.DenyDefault))
	v.oneOf("spec.sidecar.mode", string(s.Sidecar.Mode), string(NativeSidecar), string(ContainerSidecar))
	if s.Sidecar.QOSClass != "" {
		v.oneOf("spec.sidecar.qosClass", string(s.Sidecar.QOSClass), string(QOSClassKeep), string(QOSClassIgnore))
	}
	v.oneOf("spec.init.backend", string(s.Init.Backend), string(podplan.BackendAuto), string(podplan.BackendNFTables), string(podplan.BackendIPTables))
	v.oneOf("spec.proxy.records", string(s.Proxy.Records), string(podplan.RecordsOwn), string(podplan.RecordsStandard))
	v.oneOf("spec.proxy.logLevel", s.Proxy.LogLevel, "debug", "info", "warn", "error")
	if d := s.Proxy.IdleTimeout.Duration; d != 0 && d < minIdleTimeout {
		v.fail("spec.proxy.idleTimeout", "%s is less than %s: connections would be cut between two requests; leave it out for none", d, minIdleTimeout)
	}
	if s.Sidecar.UID < 1 || s.Sidecar.UID > 1<<31-1 {
		v.fail("spec.sidecar.uid", "%d is not the id of a non-root user", s.Sidecar.UID)
	}
	each(v, "spec.outbound.excludeCIDRs", s.Outbound.ExcludeCIDRs, netset.ValidatePrefix)
	each(v, "spec.outbound.meshCIDRs", s.Outbound.MeshCIDRs, netset.ValidatePrefix)
	each(v, "spec.outbound.clusterCIDRs", s.Outbound.ClusterCIDRs, netset.ValidatePrefix)
	each(v, "spec.outbound.plaintextServices", s.Outbound.PlaintextServices, validateServiceName)
	if _, err := s.ClientCIDRs(); err != nil {
		v.fail("spec.inbound.clientCIDRs", "%v", err)
	}
	each(v, "spec.inbound.excludeInterfaces", s.Inbound.ExcludeInterfaces, validateInterface)
	each(v, "spec.outbound.excludeInterfaces", s.Outbound.ExcludeInterfaces, validateInterface)
	each(v, "spec.outbound.excludeUIDs", s.Outbound.ExcludeUIDs, func(uid int64) error { return netset.UIDs{uid}.Validate(s.Sidecar.UID) })
}

// ClientCIDRs are spec.inbound.clientCIDRs. Where a network that the config names elsewhere speaks against the default
// range, they name another, so that every pod of the mesh has the same.
func (s *Spec) ClientCIDRs() (clientaddr.Ranges, error) {
	r, err := clientaddr.FromPrefixes(s.Inbound.ClientCIDRs)
	if err != nil {
		return r, err
	}
	taken := slices.Concat(s.Outbound.MeshCIDRs, s.Outbound.ClusterCIDRs, s.Outbound.ExcludeCIDRs)
	for _, f := range s.Federation {
		taken = append(taken, f.CIDRs...)
	}
	chosen, err := clientaddr.Choose(r, taken)
	if err == nil && chosen.V4 != clientaddr.Default.V4 {
		r.V4 = chosen.V4
	}
	return r, err
}

// each checks the entries of a list one by one.
func each[E any](v *validator, path string, list []E, check func(E) error) {
	for i, entry := range list {
		if err := check(entry); err != nil {
			v.fail(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
}

// validateServiceName refuses what is no <service>.<namespace>.
func validateServiceName(text string) error {
	name, namespace, _ := strings.Cut(text, ".")
	if len(validation.IsDNS1123Label(name)) > 0 || len(validation.IsDNS1123Label(namespace)) > 0 {
		return fmt.Errorf("%q is not <service>.<namespace>, like postgres.data", text)
	}
	return nil
}

func validateInterface(name string) error { return netset.Interfaces{name}.Validate() }

// podless are kinds of the core group that a render reads as what they are.
var podless = []string{"Service", "Secret", "ConfigMap", "Namespace", "List", "Endpoints", "LimitRange", "ResourceQuota"}

// templatePath is a path of keys that are joined by dots, each with [] behind it where it holds a list.
var templatePath = regexp.MustCompile(`^[^.\[\]]+(\[\])?(\.[^.\[\]]+(\[\])?)*$`)

func (v *validator) workloads(w WorkloadSelectors) {
	for i, s := range w.Include {
		v.selector(fmt.Sprintf("spec.workloads.include[%d]", i), s)
	}
	for i, s := range w.Exclude {
		v.selector(fmt.Sprintf("spec.workloads.exclude[%d]", i), s)
	}
	for i, t := range w.Templates {
		field := fmt.Sprintf("spec.workloads.templates[%d]", i)
		if t.Group != "" && len(validation.IsDNS1123Subdomain(t.Group)) > 0 || t.Kind == "" {
			v.fail(field, "needs the group and kind of a custom resource, like argoproj.io and Rollout; the core group is the empty one")
		}
		if !templatePath.MatchString(t.Path) {
			v.fail(field+".path", "%q is not a path like spec.template or spec.jobs[].template", t.Path)
		}
		if t.Group == "" && slices.Contains(podless, t.Kind) {
			v.fail(field+".kind", "a %s of Kubernetes holds no pod template", t.Kind)
		}
	}
	v.declared(w.Declared)
	for i, name := range w.Overrides {
		v.oneOf(fmt.Sprintf("spec.workloads.overrides[%d]", i), name, api.Overrides...)
	}
}

func (v *validator) selector(field string, s Selector) {
	if s.Empty() {
		v.fail(field, "selects nothing in particular; set kind, name, namespace or labelSelector")
	}
	for part, glob := range map[string]string{".name": s.Name, ".namespace": s.Namespace} {
		if _, err := path.Match(glob, ""); err != nil {
			v.fail(field+part, "%q is not a glob", glob)
		}
	}
	if _, err := metav1.LabelSelectorAsSelector(s.LabelSelector); err != nil {
		v.fail(field+".labelSelector", "%v", err)
	}
}

func (v *validator) redirect(r Redirect) {
	v.oneOf("spec.redirect.mode", string(r.Mode), string(RedirectRules), string(RedirectNone))
	for i, s := range r.None {
		v.selector(fmt.Sprintf("spec.redirect.none[%d]", i), s)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Services)) {
		field := "spec.redirect.services[" + name + "]"
		if err := validateServiceName(name); err != nil {
			v.fail(field, "%v", err)
		}
		if len(r.Services[name].Set()) == 0 {
			v.fail(field, "names no port; write those on which clients dial the Service, like [5432]")
		}
	}
}

func (v *validator) rules(s Spec) {
	for i, rule := range s.Authorization.Rules {
		field := fmt.Sprintf("spec.authorization.rules[%d]", i)
		v.selector(field+".to", rule.To)
		if len(rule.From) == 0 {
			v.fail(field+".from", "is empty; a rule that allows nobody is left out")
		}
		for j, peer := range rule.From {
			field := fmt.Sprintf("%s.from[%d]", field, j)
			switch {
			case peer.SPIFFEID == "":
				v.selector(field, peer.Selector)
			case !peer.Selector.Empty():
				v.fail(field, "has a selector and a spiffeID; write two entries")
			default:
				if err := meshmap.ValidateRulePattern(peer.SPIFFEID, s.TrustDomain, s.federationShape()); err != nil {
					v.fail(field+".spiffeID", "%v", err)
				}
			}
		}
	}
}

func (v *validator) images(s Spec) {
	for field, policy := range map[string]corev1.PullPolicy{"spec.proxy.imagePullPolicy": s.Proxy.ImagePullPolicy, "spec.init.imagePullPolicy": s.Init.ImagePullPolicy} {
		if policy != "" {
			v.oneOf(field, string(policy), string(corev1.PullAlways), string(corev1.PullIfNotPresent), string(corev1.PullNever))
		}
	}
	for field, image := range map[string]string{"spec.proxy.image": s.Proxy.Image, "spec.init.image": s.Init.Image} {
		if err := ValidateImage(image); err != nil {
			v.fail(field, "%v", err)
		}
	}
}

// ValidateImage refuses what no container runtime could pull.
func ValidateImage(image string) error {
	if image == "" || strings.ContainsAny(image, " \t\r\n\"'") {
		return fmt.Errorf("%q is not the name of an image", image)
	}
	return nil
}

// Empty tells whether no field is set.
func (s Selector) Empty() bool {
	return s.Kind == "" && s.Name == "" && s.Namespace == "" && s.LabelSelector == nil
}
