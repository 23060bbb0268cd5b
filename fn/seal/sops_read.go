package seal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// sopsValue is a value that SOPS encrypted (aes/cipher.go). Only strings are read: a value of a Secret is nothing else.
var sopsValue = regexp.MustCompile(`^ENC\[AES256_GCM,data:([A-Za-z0-9+/=]+),iv:([A-Za-z0-9+/=]+),tag:([A-Za-z0-9+/=]+),type:str\]$`)

// sopsOtherKeys are the fields that name holders of the data key beside age recipients, and sopsOtherRules those that
// choose what is encrypted in other ways than encrypted_regex (stores/stores.go).
var (
	sopsOtherKeys  = []string{"key_groups", "kms", "gcp_kms", "hckms", "azure_kv", "hc_vault", "pgp"}
	sopsOtherRules = []string{"unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "unencrypted_comment_regex", "encrypted_comment_regex"}
)

// IsSOPS tells whether a value claims to be encrypted by SOPS.
func IsSOPS(value string) bool { return strings.HasPrefix(value, "ENC[") }

// ReadSOPS reads, without opening it, an object of which SOPS encrypted the value at the path and nothing else, and
// returns the age recipients to whom. It takes what SealSOPS makes and what `sops --encrypt --encrypted-regex
// --mac-only-encrypted`, `sops rotate` and `sops updatekeys` make of it. An object that `sops` could not decrypt, or
// not after an edit of its metadata, is an error.
func ReadSOPS(object *yaml.Node, path ...string) ([]string, error) {
	metadata := node.Get(object, SOPSField)
	if metadata == nil || metadata.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("cannot be decrypted, since the field %s beside data is missing", SOPSField)
	}
	if !isSOPSValue(node.Scalar(object, path...)) {
		return nil, errors.New("is not encrypted by SOPS (ENC[AES256_GCM,…])")
	}
	if err := readSOPSRule(metadata, object, path); err != nil {
		return nil, err
	}
	mac, modified := node.Get(metadata, "mac"), node.Get(metadata, "lastmodified")
	if mac == nil || !isSOPSValue(mac.Value) {
		return nil, fmt.Errorf("cannot be decrypted, since %s.mac is no MAC of SOPS", SOPSField)
	}
	if modified == nil {
		return nil, fmt.Errorf("cannot be decrypted, since %s.lastmodified is missing", SOPSField)
	}
	if _, err := time.Parse(time.RFC3339, modified.Value); err != nil {
		return nil, fmt.Errorf("cannot be decrypted, since %s.lastmodified is no date of RFC 3339", SOPSField)
	}
	return readSOPSRecipients(metadata)
}

// readSOPSRule checks that `sops` would decrypt the value at the path and take all its siblings as they stand.
func readSOPSRule(metadata, object *yaml.Node, path []string) error {
	if i := slices.IndexFunc(sopsOtherRules, func(key string) bool { return node.Index(metadata, key) >= 0 }); i >= 0 {
		return fmt.Errorf("is encrypted by %s.%s; want encrypted_regex: %s", SOPSField, sopsOtherRules[i], sopsRegex(path[len(path)-1]))
	}
	text := node.Scalar(metadata, "encrypted_regex")
	name := path[len(path)-1]
	rule, err := regexp.Compile(text)
	if text == "" || err != nil || !rule.MatchString(name) || slices.ContainsFunc(path[:len(path)-1], rule.MatchString) {
		return fmt.Errorf("needs %s.encrypted_regex: %s, which encrypts it alone; it is %q", SOPSField, sopsRegex(name), text)
	}
	siblings := node.Get(object, path[:len(path)-1]...)
	for i := 0; i+1 < len(siblings.Content); i += 2 {
		if key := siblings.Content[i].Value; key != name && (rule.MatchString(key) || IsSOPS(siblings.Content[i+1].Value)) {
			return fmt.Errorf("is not the only value that is encrypted: %s is too; want encrypted_regex: %s", key, sopsRegex(name))
		}
	}
	if node.Scalar(metadata, "mac_only_encrypted") != "true" {
		return fmt.Errorf("needs %s.mac_only_encrypted: true, since kustomize edits the rest of the object", SOPSField)
	}
	return nil
}

func readSOPSRecipients(metadata *yaml.Node) ([]string, error) {
	if i := slices.IndexFunc(sopsOtherKeys, func(key string) bool { n := node.Get(metadata, key); return n != nil && len(n.Content) > 0 }); i >= 0 {
		return nil, fmt.Errorf("is encrypted to %s.%s; only age recipients are known here", SOPSField, sopsOtherKeys[i])
	}
	var recipients []string
	if list := node.Get(metadata, "age"); list != nil {
		for i, entry := range list.Content {
			recipient, enc := node.Get(entry, "recipient"), node.Get(entry, "enc")
			if recipient == nil || enc == nil {
				return nil, fmt.Errorf("cannot be decrypted, since %s.age[%d] lacks its recipient or its enc", SOPSField, i)
			}
			to, err := ParseRecipients([]string{recipient.Value})
			if err != nil {
				return nil, fmt.Errorf("is encrypted to %s.age[%d], which is no native recipient of age", SOPSField, i)
			}
			if to.Check(enc.Value) != nil {
				return nil, fmt.Errorf("cannot be decrypted, since %s.age[%d].enc is no age file for its recipient", SOPSField, i)
			}
			recipients = append(recipients, recipient.Value)
		}
	}
	if len(recipients) == 0 {
		return nil, fmt.Errorf("cannot be decrypted, since %s.age names nobody", SOPSField)
	}
	return recipients, nil
}

// Are tells whether the recipients are these and no others, in any order.
func (r Recipients) Are(texts []string) bool {
	named := slices.Compact(slices.Sorted(slices.Values(texts)))
	own := make([]string, len(r.list))
	for i, recipient := range r.list {
		own[i] = fmt.Sprint(recipient)
	}
	slices.Sort(own)
	return slices.Equal(own, named)
}

// isSOPSValue tells whether a text is an encrypted string with all of its parts.
func isSOPSValue(text string) bool {
	if len(text) > maxSealedSize {
		return false
	}
	parts := sopsValue.FindStringSubmatch(text)
	return parts != nil && !slices.ContainsFunc(parts[1:], func(part string) bool {
		decoded, err := base64.StdEncoding.DecodeString(part)
		return err != nil || len(decoded) == 0
	})
}

// sopsRegex is the encrypted_regex that matches one name and no other.
func sopsRegex(name string) string { return "^" + regexp.QuoteMeta(name) + "$" }
