package verify

import (
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/seal"
	"github.com/meshless-dev/meshless/internal/api"
)

// sealedKey checks, without opening it, that the key in a Secret of ours can be opened by somebody, and returns the
// file that a pod gets it as. data is what node.SecretData read.
func (c *checker) sealedKey(object report.Object, item *yaml.RNode, data map[string]string) string {
	raw := item.GetDataMap()
	_, plain := raw[api.PlainKeyFile]
	_, sealed := raw[api.SealedKeyFile]
	if !plain && node.Get(item.YNode(), seal.SOPSField) == nil {
		if _, err := seal.CountRecipients(data[api.SealedKeyFile]); err != nil {
			c.report.Error(object, report.Data(api.SealedKeyFile), "%v", err)
		}
		return api.SealedKeyFile
	}
	switch _, err := seal.ReadSOPS(item.YNode(), "data", api.PlainKeyFile); {
	case strings.Contains(data[api.PlainKeyFile], "PRIVATE KEY"): // refuseClear has said it
	case sealed:
		c.report.Error(object, "data", "holds a key of two formats, %s and %s; restore the Secret from Git, or delete it to have it issued anew", api.SealedKeyFile, api.PlainKeyFile)
	case err != nil:
		c.report.Error(object, report.Data(api.PlainKeyFile), "%v; restore the Secret from Git, or delete it to have it issued anew", err)
	}
	return api.PlainKeyFile
}

// refuseEncryptedLeaf tells whether the certificate of a Secret cannot be read for being encrypted, and reports it.
func (c *checker) refuseEncryptedLeaf(object report.Object, item *yaml.RNode) bool {
	encrypted := seal.IsSOPS(item.GetDataMap()[api.LeafFile])
	if encrypted {
		c.report.Error(object, report.Data(api.LeafFile), "is encrypted by SOPS, and must be read without a key: encrypt %s alone (--encrypted-regex '^tls\\.key$'); "+
			"restore the Secret from Git, or delete it to have it issued anew", api.PlainKeyFile)
	}
	return encrypted
}

// keySource checks that a pod takes from a Secret of ours the key that it holds, and an age identity only where it
// needs one.
func (c *checker) keySource(p *pod, leaf *Leaf) {
	files := p.plan.Files
	switch identity := files.Identity.Name != ""; {
	case leaf != nil && leaf.keyFile != files.KeyFile:
		c.report.Error(p.object, p.sources(), "takes %s from secret %q, which holds %s; render the whole package again", files.KeyFile, files.LeafSecret, leaf.keyFile)
	case files.KeyFile == api.SealedKeyFile && !identity:
		c.report.Error(p.object, p.sources(), "lacks the Secret with the file %s", api.IdentityFile)
	case files.KeyFile == api.PlainKeyFile && identity:
		c.report.Error(p.object, p.sources(), "mounts an age identity (%s) beside %s, which needs none; render again", api.IdentityFile, api.PlainKeyFile)
	}
}
