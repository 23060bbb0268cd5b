package svid_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/meshless-dev/meshless/internal/svid"
)

const (
	exampleBundle = `-----BEGIN CERTIFICATE-----
MIIBizCCATCgAwIBAgIQeIenUeYWeNZu1pIbUoVCiTAKBggqhkjOPQQDAjASMRAw
DgYDVQQDEwdleGFtcGxlMB4XDTI2MDEwMTAwMDAwMFoXDTM2MDEwMTAwMDAwMFow
EjEQMA4GA1UEAxMHZXhhbXBsZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJX9
1pYqyo1fvHv8XGRGvc2eqZ513fU70xcc36FOaBrNIWv1ycVqn29nfulqqNaKKeq4
cVxMpv91hC2l/sgqL+qjaDBmMA4GA1UdDwEB/wQEAwIBBjASBgNVHRMBAf8ECDAG
AQH/AgEAMB0GA1UdDgQWBBSAtn5XXTU+Ti4HlzHQFmlPVl/OKTAhBgNVHREEGjAY
hhZzcGlmZmU6Ly9jbHVzdGVyLmxvY2FsMAoGCCqGSM49BAMCA0kAMEYCIQDDHQOC
vMdvo7DleAxsdqMpwyjlyYMV3sNzxOtBx/if6AIhAL+BEPLVb8F8nbU4vJSmgN9j
K8srB7GFAbydFTMXjtv+
-----END CERTIFICATE-----
`
	exampleLeaf = `-----BEGIN CERTIFICATE-----
MIIBsDCCAVWgAwIBAgIQK/K19Vudsso3U+1MiwV7NTAKBggqhkjOPQQDAjASMRAw
DgYDVQQDEwdleGFtcGxlMB4XDTI2MDEwMTAwMDAwMFoXDTI2MDIwMTAwMDAwMFow
ADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABO+EjhdXMg4fcBpWyB8T12xc8Joh
bb/9tyxSpKdxiB3winTk37OD5XKvfk/VLolwe+7RBjAibCHgBDlOGxJFf0+jgZ4w
gZswDgYDVR0PAQH/BAQDAgeAMB0GA1UdJQQWMBQGCCsGAQUFBwMBBggrBgEFBQcD
AjAMBgNVHRMBAf8EAjAAMB8GA1UdIwQYMBaAFIC2flddNT5OLgeXMdAWaU9WX84p
MDsGA1UdEQEB/wQxMC+GLXNwaWZmZTovL2NsdXN0ZXIubG9jYWwvbnMvc2hvcC9k
ZXBsb3ltZW50L3dlYjAKBggqhkjOPQQDAgNJADBGAiEA1RRT90tKpK8QluLQsNjn
dJuQkmuSfwPoZppMz4F6m1MCIQC2m8dSJaBKiuKjSaO+gDJGPZr505vZJluQLExf
s87ZKQ==
-----END CERTIFICATE-----
`
)

// A bundle judges what a peer has presented, for one use and at one time. A refusal is an *svid.Error with a reason of
// a closed set.
func ExampleBundle_Verify() {
	authorities, err := svid.ParseCertificates([]byte(exampleBundle))
	if err != nil {
		fmt.Println(err)
		return
	}
	trustDomain := spiffeid.RequireTrustDomainFromString("cluster.local")
	bundle, err := svid.NewBundle(trustDomain, authorities, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	presented, err := svid.ParseCertificates([]byte(exampleLeaf))
	if err != nil {
		fmt.Println(err)
		return
	}

	now := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
	id, err := bundle.Verify(presented, x509.ExtKeyUsageServerAuth, now)
	fmt.Println(id, err)

	_, err = bundle.Verify(presented, x509.ExtKeyUsageServerAuth, now.AddDate(1, 0, 0))
	var refused *svid.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Reason)
	}
	// Output:
	// spiffe://cluster.local/ns/shop/deployment/web <nil>
	// expired
}
