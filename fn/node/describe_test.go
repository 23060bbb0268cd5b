package node_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/node"
)

// An error of the decoder names the place, lists with their index, and what to write instead.
func TestWorded(t *testing.T) {
	type config struct {
		Pod    corev1.PodSpec  `json:"pod"`
		Every  v1.Duration     `json:"every"`
		Users  [][]int32       `json:"users"`
		Small  uint8           `json:"small"`
		On     map[string]bool `json:"on"`
		Inline `json:",inline"`
	}
	for text, want := range map[string]string{
		"users: [[1], [2, \"3\"]]":       "users[1][1] is a string where a number belongs: write 3 without quotes",
		"users: [[1], [\"3000000000\"]]": "users[1][0] is a string where a number belongs",
		"users: [[], x]":                 "users[1] is a string where a []int32 belongs",
		"users: [[], [true]]":            "users[1][0] is a bool where a number belongs",
		"users: [[{}]]":                  "users[0][0] is a object where a number belongs",
		"small: 256":                     "small is a number 256 where a uint8 belongs",
		"small: \"-1\"":                  "small is a string where a number belongs",
		"pod: {containers: [{name: a}, {name: b, args: [a, 80]}]}":     "pod.containers[1].args[1] is a number where text belongs: write it in quotes",
		"pod: {hostNetwork: \"true\"}":                                 "pod.hostNetwork is a string where true or false belongs: write true without quotes",
		"pod: {hostNetwork: \"yes\"}":                                  "pod.hostNetwork is a string where true or false belongs",
		"pod: {containers: [{ports: [{containerPort: \"80\"}]}]}":      "pod.containers[0].ports[0].containerPort is a string where a number belongs: write 80 without quotes",
		"pod: {containers: [{ports: {}}]}":                             "pod.containers[0].ports is a object where a []v1.ContainerPort belongs",
		"pod: {tolerations: [{}, {tolerationSeconds: \"9\"}], os: {}}": "pod.tolerations[1].tolerationSeconds is a string where a number belongs: write 9 without quotes",
		"deep: [{at: \"1\"}]":                                          "deep[0].at is a string where a number belongs: write 1 without quotes",
		"on: {a: true, b.c: \"false\"}":                                "on.b.c is a string where true or false belongs: write false without quotes",
		// Duration reads itself, and its offsets are its own
		"users: []\nevery: 3": "every is a number where text belongs: write it in quotes",
	} {
		var into config
		if err := node.Decode(yaml.MustParse(text), &into); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

type Inline struct {
	Deep []struct {
		At int `json:"at"`
	} `json:"deep"`
}
