// Command flux-decrypt does to a folder what Flux's kustomize-controller does between the checkout and the apply:
// import the keys of spec.decryption, decrypt sources, build, decrypt every resource
// (internal/controller/kustomization_controller.go, method build). It is compiled inside of the controller's module,
// whose decryptor is internal.
//
//	flux-decrypt ROOT FOLDER [KEYFILE]
//
// ROOT is the checkout and FOLDER spec.path in it; without KEYFILE the Kustomization has no spec.decryption. The result
// goes to standard output. A Secret that is still encrypted is refused in the controller's words, as its method apply
// does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/kustomize/api/krusty"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/kustomize-controller/internal/decryptor"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: flux-decrypt ROOT FOLDER [KEYFILE]")
	}
	root, folder := args[0], filepath.Join(args[0], args[1])
	object := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "flux-system"}}
	client := fake.NewClientBuilder()
	if len(args) > 2 {
		key, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		object.Spec.Decryption = &kustomizev1.Decryption{Provider: "sops", SecretRef: &meta.LocalObjectReference{Name: "sops-age"}}
		client.WithObjects(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sops-age", Namespace: "flux-system"}, Data: map[string][]byte{"age.agekey": key}})
	}
	dec, cleanup, err := decryptor.New(client.Build(), object, decryptor.WithRoot(root))
	if err != nil {
		return err
	}
	defer cleanup()
	if err := dec.ImportKeys(context.Background()); err != nil {
		return err
	}
	if err := dec.DecryptSources(folder); err != nil {
		return fmt.Errorf("error decrypting sources: %w", err)
	}
	// as Build of github.com/fluxcd/pkg/kustomize, whose module is not always to be had
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = kustypes.LoadRestrictionsNone
	options.PluginConfig = kustypes.DisabledPluginConfig()
	m, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return fmt.Errorf("kustomize build failed: %w", err)
	}
	for _, res := range m.Resources() {
		out, err := dec.DecryptResource(res)
		if err != nil {
			return fmt.Errorf("decryption failed for '%s/%s': %w", res.GetGvk(), res.GetName(), err)
		}
		if out != nil {
			if _, err := m.Replace(res); err != nil {
				return err
			}
		}
		fields, err := res.Map()
		if err != nil {
			return err
		}
		if u := (&unstructured.Unstructured{Object: fields}); decryptor.IsEncryptedSecret(u) {
			return fmt.Errorf("%s is SOPS encrypted, configuring decryption is required for this secret to be reconciled", res.GetName())
		}
	}
	yaml, err := m.AsYaml()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(yaml)
	return err
}
