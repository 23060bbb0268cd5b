// Package sopstest opens, for tests, what package seal has encrypted in the form of SOPS. It shares no code of the
// encryption with that package, and test/sops holds both against the real program.
package sopstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/seal"
)

// Open decrypts the value at a path of an object, as `sops decrypt` and Flux do, and checks the MAC.
func Open(object *yaml.Node, identities []age.Identity, path ...string) ([]byte, error) {
	if _, err := seal.ReadSOPS(object, path...); err != nil {
		return nil, err
	}
	metadata := node.Get(object, seal.SOPSField)
	var key []byte
	err := errors.New("is sealed to none of the identities that were given")
	for _, entry := range node.Get(metadata, "age").Content {
		if key, err = seal.Open(node.Get(entry, "enc").Value, identities); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	plaintext, err1 := decrypt(key, node.Get(object, path...).Value, strings.Join(path, ":")+":")
	mac, err2 := decrypt(key, node.Get(metadata, "mac").Value, node.Get(metadata, "lastmodified").Value)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	start := sha256.Sum256([]byte("sops")) // with mac_only_encrypted
	if sum := sha512.Sum512(slices.Concat(start[:], plaintext)); string(mac) != fmt.Sprintf("%X", sum) {
		return nil, errors.New("the MAC is another value's")
	}
	return plaintext, nil
}

var value = regexp.MustCompile(`^ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:str\]$`)

func decrypt(key []byte, text, additional string) ([]byte, error) {
	match := value.FindStringSubmatch(text)
	if match == nil {
		return nil, errors.New("is no encrypted string")
	}
	var parts [3][]byte
	for i := range parts {
		var err error
		if parts[i], err = base64.StdEncoding.DecodeString(match[i+1]); err != nil {
			return nil, err
		}
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, len(parts[1]))
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, parts[1], slices.Concat(parts[0], parts[2]), []byte(additional))
}
