package node

import (
	"encoding/base64"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// SecretData are the decoded values of a Secret by key: its data and, as the API server merges them, its stringData. A
// value that is not base64, such as one that SOPS has encrypted, is left out.
func SecretData(secret *yaml.RNode) map[string]string {
	data := map[string]string{}
	for key, text := range secret.GetDataMap() {
		if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil {
			data[key] = string(plain)
		}
	}
	if plain := Get(secret.YNode(), "stringData"); plain != nil {
		for i := 0; i+1 < len(plain.Content); i += 2 {
			data[plain.Content[i].Value] = plain.Content[i+1].Value
		}
	}
	return data
}
