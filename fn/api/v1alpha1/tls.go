package v1alpha1

import (
	"crypto/tls"
	"fmt"
	"slices"

	"k8s.io/component-base/cli/flag"
)

// The values of TLS.MinVersion, in the spelling of kube-apiserver's --tls-min-version.
const (
	VersionTLS12 = "VersionTLS12"
	VersionTLS13 = "VersionTLS13"
)

// TLS is the policy of connections, in the spelling of kube-apiserver's flags. The proxies speak TLS 1.3 and nothing
// else; what differs from that is for the control plane alone.
type TLS struct {
	MinVersion string `json:"minVersion,omitempty"` // VersionTLS13, VersionTLS12; default VersionTLS13
	// of TLS 1.2, such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; those of TLS 1.3 are fixed
	CipherSuites []string `json:"cipherSuites,omitempty"`
	// numbers of the TLS registry of groups, as --tls-curve-preferences takes them
	CurvePreferences []int32 `json:"curvePreferences,omitempty"`
	// write all this into static Pods and kubelet configs of the input
	ControlPlane bool `json:"controlPlane,omitempty"`
}

func (v *validator) tls(t TLS) {
	v.oneOf("spec.tls.minVersion", t.MinVersion, VersionTLS13, VersionTLS12)
	if !t.ControlPlane {
		const why = "concerns the control plane alone, since the proxies always speak TLS 1.3: set controlPlane: true, or leave it out"
		if t.MinVersion == VersionTLS12 {
			v.fail("spec.tls.minVersion", "%s %s", VersionTLS12, why)
		}
		if len(t.CipherSuites) > 0 {
			v.fail("spec.tls.cipherSuites", why)
		}
		if len(t.CurvePreferences) > 0 {
			v.fail("spec.tls.curvePreferences", why)
		}
	}
	v.cipherSuites(t)
	if _, err := flag.TLSCurvePreferences(t.CurvePreferences); err != nil {
		v.fail("spec.tls.curvePreferences", "%v", err)
	}
}

func (v *validator) cipherSuites(t TLS) {
	if len(t.CipherSuites) == 0 {
		return
	}
	if t.MinVersion == VersionTLS13 {
		v.fail("spec.tls.cipherSuites", "the suites of TLS 1.3 cannot be chosen, and etcd does not start with both: leave it out, or set minVersion: %s", VersionTLS12)
	}
	seen := map[uint16]bool{}
	for i, name := range t.CipherSuites {
		id, err := cipherSuite(name)
		if err == nil && seen[id] {
			err = fmt.Errorf("%s stands twice", name)
		}
		if err != nil {
			v.fail(fmt.Sprintf("spec.tls.cipherSuites[%d]", i), "%v", err)
		}
		seen[id] = true
	}
	// RFC 9113, section 9.2.2. Go's HTTP/2 server checks its configuration, and kube-apiserver exits.
	if !seen[tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256] && !seen[tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256] {
		v.fail("spec.tls.cipherSuites", "holds neither TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 nor TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; HTTP/2 requires one of "+
			"them, and kube-apiserver does not start without")
	}
}

// cipherSuite returns the number of a suite of TLS 1.2 that is not known to be weak.
func cipherSuite(name string) (uint16, error) {
	if _, weak := flag.InsecureTLSCiphers()[name]; weak {
		return 0, fmt.Errorf("%s is insecure", name)
	}
	ids, err := flag.TLSCipherSuites([]string{name})
	if err != nil {
		return 0, fmt.Errorf("%q is no cipher suite that kube-apiserver knows; its --help lists them", name)
	}
	for _, suite := range tls.CipherSuites() {
		if suite.ID == ids[0] && !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			return 0, fmt.Errorf("%s is a suite of TLS 1.3, which are always on and cannot be chosen", name)
		}
	}
	return ids[0], nil
}
