package v1alpha1_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
)

const rsa128 = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"

func TestTLS(t *testing.T) {
	for name, test := range map[string]struct{ tls, want string }{ // want "" is accepted
		"default":                {"{}", ""},
		"control plane":          {"{controlPlane: true}", ""},
		"TLS 1.2":                {"{controlPlane: true, minVersion: VersionTLS12}", ""},
		"suites":                 {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305]}", ""},
		"curves":                 {"{controlPlane: true, curvePreferences: [4588, 29]}", ""},
		"obsolete version":       {"{controlPlane: true, minVersion: VersionTLS11}", `"VersionTLS11" is not supported; want VersionTLS13, VersionTLS12`},
		"etcd's spelling":        {"{controlPlane: true, minVersion: TLS1.3}", `"TLS1.3" is not supported`},
		"TLS 1.2 for proxies":    {"{minVersion: VersionTLS12}", "spec.tls.minVersion: VersionTLS12 concerns the control plane alone"},
		"suites for proxies":     {"{cipherSuites: [" + rsa128 + "]}", "spec.tls.cipherSuites: concerns the control plane alone"},
		"curves for proxies":     {"{curvePreferences: [29]}", "spec.tls.curvePreferences: concerns the control plane alone"},
		"suites of TLS 1.3":      {"{controlPlane: true, cipherSuites: [" + rsa128 + "]}", "set minVersion: VersionTLS12"},
		"a suite of TLS 1.3":     {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", TLS_AES_128_GCM_SHA256]}", "cipherSuites[1]: TLS_AES_128_GCM_SHA256 is a suite of TLS 1.3"},
		"unknown suite":          {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", ECDHE-RSA-AES256-GCM-SHA384]}", `"ECDHE-RSA-AES256-GCM-SHA384" is no cipher suite`},
		"insecure suite":         {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", TLS_RSA_WITH_AES_128_GCM_SHA256]}", "TLS_RSA_WITH_AES_128_GCM_SHA256 is insecure"},
		"suite twice":            {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", " + rsa128 + "]}", "stands twice"},
		"suite under both names": {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [" + rsa128 + ", TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]}", "stands twice"},
		"nothing for HTTP/2":     {"{controlPlane: true, minVersion: VersionTLS12, cipherSuites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]}", "HTTP/2 requires one of them"},
		"unknown curve":          {"{controlPlane: true, curvePreferences: [1]}", "curve preference 1 is not supported"},
		"curve by name":          {"{controlPlane: true, curvePreferences: [X25519]}", "is a string where a"},
		"curve twice":            {"{controlPlane: true, curvePreferences: [29, 29]}", "duplicate curve preference 29"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := v1alpha1.Load(yaml.MustParse(head + "  tls: " + test.tls))
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want == "" && config.Spec.TLS.MinVersion == "":
				t.Error("minVersion has no default")
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}
