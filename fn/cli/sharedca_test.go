package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// TestSharedCAIsNotOverwritten: of two runs at once, the second writes nothing, so that no authority and no revocation
// is lost.
func TestSharedCAIsNotOverwritten(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "ca.yaml")
	object := func(name string) *yaml.RNode {
		return yaml.MustParse("apiVersion: meshless.dev/v1alpha1\nkind: CertificateAuthority\nmetadata: {name: " + name + "}\n")
	}
	open := func() *sharedCA {
		ca, err := openSharedCA(file, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	for _, names := range [][2]string{{"a", "b"}, {"c", "d"}} { // the file is missing at first, then it is there
		first, second := open(), open()
		first.item, second.item = object(names[0]), object(names[1])
		if written, err := first.write(); err != nil || !written {
			t.Fatal(written, err)
		}
		if written, err := second.write(); written || err == nil || !strings.Contains(err.Error(), "was changed meanwhile") {
			t.Errorf("the second run: %v, %v", written, err)
		}
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "name: "+names[0]) {
			t.Errorf("%s, %v", text, err)
		}
	}
	if ca := open(); ca.item == nil {
		t.Error("the file is not read")
	} else if written, err := ca.write(); written || err != nil {
		t.Errorf("without a change: %v, %v", written, err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("%v is left behind, %v", entries, err)
	}
}
