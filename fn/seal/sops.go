package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// The format of SOPS, written by hand: its own packages link the clients of every cloud's key service, and only its
// decryption has a promise of stability (github.com/getsops/sops/v3, sops.go). test/sops holds what is written here
// against the real program and against Flux's decryptor.
const (
	// SOPSField is the top-level field in which SOPS keeps what it needs to decrypt an object. The API server knows no
	// such field, so a Secret that nobody decrypted is refused instead of mounted.
	SOPSField = "sops"
	// sopsVersion is the release whose format this is. Every release since 3.9.0 (mac_only_encrypted) reads it.
	sopsVersion = "3.13.3"
	// sopsKeySize and sopsNonceSize are those of SOPS: AES-256-GCM with a nonce of 32 bytes instead of the usual 12.
	sopsKeySize, sopsNonceSize = 32, 32
)

// sopsMACStart begins the hash of a MAC over the encrypted values alone, so that it never equals one over all values
// (sops.go, MACOnlyEncryptedInitialization: the SHA-256 of "sops").
var sopsMACStart = []byte{
	0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0xb,
	0xb, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
}

// SOPS is one value of an object, encrypted as `sops` would do it, and the field that tells `sops` how to decrypt it.
type SOPS struct {
	Value    string     // ENC[AES256_GCM,data:…,iv:…,tag:…,type:str]
	Metadata *yaml.Node // what stands under SOPSField
}

// SealSOPS encrypts the text that stands at the path of an object, and nothing else of it: `encrypted_regex` names the
// last element of the path. The MAC covers that value alone (`mac_only_encrypted`), so whatever edits the rest of the
// object, as kustomize does with names, namespaces and labels, leaves it intact. now is written as `lastmodified`.
func (r Recipients) SealSOPS(path []string, plaintext []byte, now time.Time) (*SOPS, error) {
	key := make([]byte, sopsKeySize)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	groups := node.List()
	for i, recipient := range r.list {
		sealed, err := Recipients{list: r.list[i : i+1]}.Seal(key)
		if err != nil {
			return nil, err
		}
		groups.Content = append(groups.Content, node.Object("recipient", fmt.Sprint(recipient), "enc", node.Literal(sealed)))
	}
	modified := now.UTC().Format(time.RFC3339)
	value, err1 := sopsEncrypt(key, plaintext, strings.Join(path, ":")+":")
	mac, err2 := sopsEncrypt(key, []byte(sopsMAC(plaintext)), modified)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return &SOPS{Value: value, Metadata: node.Object(
		"age", groups,
		"lastmodified", modified,
		"mac", mac,
		"encrypted_regex", sopsRegex(path[len(path)-1]),
		"mac_only_encrypted", true,
		"version", sopsVersion,
	)}, nil
}

// sopsEncrypt writes a string in the form of SOPS. The additional data ties a value to its place in the object, and the
// MAC to its date.
func sopsEncrypt(key, plaintext []byte, additional string) (string, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", err
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, sopsNonceSize)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, sopsNonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	sealed := gcm.Seal(nil, nonce, plaintext, []byte(additional))
	cut, encode := len(sealed)-gcm.Overhead(), base64.StdEncoding.EncodeToString
	return fmt.Sprintf("ENC[AES256_GCM,data:%s,iv:%s,tag:%s,type:str]", encode(sealed[:cut]), encode(nonce), encode(sealed[cut:])), nil
}

// sopsMAC is what SOPS compares after decryption: the upper-case hexadecimal SHA-512 of all encrypted values in the
// order of the document.
func sopsMAC(plaintext []byte) string {
	hash := sha512.New()
	hash.Write(sopsMACStart) // of a hash, Write returns no error
	hash.Write(plaintext)
	return fmt.Sprintf("%X", hash.Sum(nil))
}
