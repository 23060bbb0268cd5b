package issue

import (
	"crypto"
	"encoding/base64"
	"fmt"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/certs"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/svid"
)

// SealedKey is the key of a leaf as it goes into a Secret: as an age file, or encrypted by SOPS.
type SealedKey struct {
	Age  string     // armored; empty with SOPS
	SOPS *seal.SOPS // nil with age
}

// sealLeafKey seals the key of a new leaf in the format of the config.
func (i *issuer) sealLeafKey(recipients seal.Recipients, key crypto.Signer) (out SealedKey, err error) {
	if i.model.Spec.Sealing.Format != v1alpha1.SealingSOPS {
		out.Age, err = sealKey(recipients, key)
		return out, err
	}
	plain, err := svid.EncodeKey(key)
	if err != nil {
		return out, err
	}
	defer clear(plain)
	text := make([]byte, base64.StdEncoding.EncodedLen(len(plain)))
	defer clear(text)
	base64.StdEncoding.Encode(text, plain) // the text that stands in the Secret is what SOPS encrypts
	out.SOPS, err = recipients.SealSOPS([]string{"data", api.PlainKeyFile}, text, i.Now)
	return out, err
}

// storedLeaf reads a leaf of the state. A private key in the clear is an error: it was in Git, and a new one in its
// place would hide that.
func (i *issuer) storedLeaf(secret *yaml.RNode, recipients seal.Recipients) *certs.Stored {
	data := secret.GetDataMap()
	if key, ok := data[api.PlainKeyFile]; ok && !seal.IsSOPS(key) {
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key)); err == nil && strings.Contains(string(plain), "PRIVATE KEY") {
			i.report.ErrorIn(secret, report.Data(api.PlainKeyFile), "holds a private key in the clear; consider it leaked: delete the Secret, have it issued anew, and revoke the key (`meshless revoke DIR DIGEST`, with its annotation meshless.dev/public-key)")
		}
	}
	return &certs.Stored{
		Record: certs.ParseRecord(secret.GetAnnotations()), LeafPEM: i.decode(secret, api.LeafFile), KeyFault: i.keyFault(secret, recipients),
	}
}

// decode reads a value of a Secret of the state.
func (i *issuer) decode(secret *yaml.RNode, key string) string {
	text := strings.TrimSpace(secret.GetDataMap()[key])
	plain, err := base64.StdEncoding.DecodeString(text)
	switch {
	case seal.IsSOPS(text):
		i.report.ErrorIn(secret, report.Data(key), "is encrypted by SOPS, and a render has to read it: encrypt %s alone (--encrypted-regex '^tls\\.key$'); "+
			"restore the Secret from Git, or delete it to have it issued anew", api.PlainKeyFile)
	case err != nil:
		i.report.ErrorIn(secret, report.Data(key), "is not base64; restore the Secret from Git, or delete it to have it issued anew")
	}
	return string(plain)
}

// keyFault says what is wrong with the sealed key of a Secret, as far as it can be told without opening it; "" for
// nothing.
func (i *issuer) keyFault(secret *yaml.RNode, recipients seal.Recipients) string {
	format, other := v1alpha1.SealingAge, api.PlainKeyFile
	if i.model.Spec.Sealing.Format == v1alpha1.SealingSOPS {
		format, other = v1alpha1.SealingSOPS, api.SealedKeyFile
	}
	if _, found := secret.GetDataMap()[other]; found {
		return "spec.sealing.format changed to " + format
	}
	if format == v1alpha1.SealingSOPS {
		return sopsFault(secret, recipients)
	}
	if err := recipients.Check(i.decode(secret, api.SealedKeyFile)); err != nil {
		return fmt.Sprintf("%s %v", api.SealedKeyFile, err)
	}
	return ""
}

// sopsFault is keyFault of a key that SOPS encrypted. SOPS names its recipients, so it is known who they are and not
// only how many.
func sopsFault(secret *yaml.RNode, recipients seal.Recipients) string {
	named, err := seal.ReadSOPS(secret.YNode(), "data", api.PlainKeyFile)
	switch {
	case err != nil:
		return fmt.Sprintf("%s %v", api.PlainKeyFile, err)
	case !recipients.Are(named):
		return fmt.Sprintf("%s is sealed to other recipients (%s.age) than the config names", api.PlainKeyFile, seal.SOPSField)
	}
	return ""
}
