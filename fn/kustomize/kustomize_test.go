package kustomize_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/kustomize"
)

const config = "apiVersion: meshless.dev/v1alpha1\nkind: MutualTLS\nmetadata: {name: mtls}\n"

// read is a Reader of files in memory, all of which hold the config.
func read(_, entry string) ([]*yaml.RNode, error) {
	if !strings.HasPrefix(entry, "mtls") {
		return nil, nil
	}
	return []*yaml.RNode{yaml.MustParse(config)}, nil
}

// objects are some of every kind that the order of kustomize names, in any order.
func objects(seed uint64) string {
	random := rand.New(rand.NewPCG(seed, 0))
	var all []string
	for _, kind := range []string{"v1 Namespace", "example.com/v1 Namespace", "v1 Service", "v1 Secret", "apps/v1 Deployment", "apps/v1 DaemonSet", "example.com/v1 Deployment", "batch/v1 CronJob",
		"rbac.authorization.k8s.io/v1 ClusterRole", "admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration", "apiextensions.k8s.io/v1 CustomResourceDefinition", "example.com/v1 Thing"} {
		version, name, _ := strings.Cut(kind, " ")
		for i := range 3 {
			namespace := []string{"", ", namespace: b", ", namespace: a"}[i]
			all = append(all, fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: n%d, labels: {x: y}%s}\n", version, name, random.IntN(1000), namespace))
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return strings.Join(all, "---\n")
}

// What comes behind the function is what kustomize does: order, labels, nothing.
func TestFinish(t *testing.T) {
	for name, extra := range map[string]string{
		"default":    "",
		"fifo":       "sortOptions: {order: fifo}\n",
		"legacy":     "sortOptions: {order: legacy}\n",
		"own order":  "sortOptions: {order: legacy, legacySortOptions: {orderFirst: [Service, Thing], orderLast: [Namespace, Secret]}}\n",
		"managed by": "buildMetadata: [managedByLabel]\n",
		"origins":    "buildMetadata: [originAnnotations, managedByLabel]\n",
	} {
		for _, reorder := range []krusty.ReorderOption{krusty.ReorderOptionUnspecified, krusty.ReorderOptionLegacy, krusty.ReorderOptionNone} {
			t.Run(name+" "+string(reorder), func(t *testing.T) {
				fs := filesys.MakeFsInMemory()
				write := func(name, text string) {
					if err := fs.WriteFile(name, []byte(text)); err != nil {
						t.Fatal(err)
					}
				}
				write("/plain/kustomization.yaml", "resources: [all.yaml]\n"+extra)
				write("/meshed/kustomization.yaml", "resources: [all.yaml]\ntransformers: [mtls.yaml]\n"+extra)
				write("/meshed/mtls.yaml", config)
				for _, folder := range []string{"/plain", "/meshed"} {
					write(folder+"/all.yaml", objects(uint64(len(name))))
				}
				o := krusty.MakeDefaultOptions()
				o.Reorder = reorder
				plain, err := krusty.MakeKustomizer(o).Run(fs, "/plain")
				if err != nil {
					t.Fatal(err)
				}
				want, err := plain.AsYaml()
				if err != nil {
					t.Fatal(err)
				}
				for _, each := range []bool{true, false} { // whether the objects are handed out as they are
					if diff := cmp.Diff(string(want), built(t, fs, o, each)); diff != "" {
						t.Error(diff)
					}
				}
			})
		}
	}
}

// built is the folder /meshed with a function that changes nothing.
func built(t *testing.T, fs filesys.FileSystem, o *krusty.Options, plain bool) string {
	t.Helper()
	b, err := kustomize.Run(fs, "/meshed", o, read)
	if err != nil {
		t.Fatal(err)
	}
	items, err := b.Items(func(*yaml.RNode) bool { return plain })
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.Replace(items)
	if err != nil {
		t.Fatal(err)
	}
	text, err := out.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Replace keeps the places of objects, appends new ones, and drops what is not among the items.
func TestReplace(t *testing.T) {
	fs := filesys.MakeFsInMemory()
	for name, text := range map[string]string{
		"kustomization.yaml": "resources: [all.yaml]\ntransformers: [mtls.yaml]\nsortOptions: {order: fifo}\n", "mtls.yaml": config,
		"all.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: b}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: c, namespace: default}\n",
	} {
		if err := fs.WriteFile("/meshed/"+name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := kustomize.Run(fs, "/meshed", krusty.MakeDefaultOptions(), read)
	if err != nil {
		t.Fatal(err)
	}
	items, err := b.Items(func(*yaml.RNode) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	added := yaml.MustParse("apiVersion: v1\nkind: Secret\nmetadata: {name: d}\n")
	if err := items[2].SetNamespace(""); err != nil { // the same object
		t.Fatal(err)
	}
	out, err := b.Replace([]*yaml.RNode{added, items[2], items[0]})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, id := range out.AllIds() {
		names = append(names, id.Name)
	}
	if got := strings.Join(names, " "); got != "b c d" {
		t.Errorf("got %s", got)
	}
}

// A kustomization that cannot be read is kustomize's to refuse, and a list that is none.
func TestUnreadable(t *testing.T) {
	for _, text := range []string{"", "a: [", "[a]", "transformers: {a: b}\nresources: [x]\n", "transformers: [mtls.yaml]\nresources: [none.yaml]\n", "transformers: null\n"} {
		fs := filesys.MakeFsInMemory()
		if err := fs.WriteFile("/meshed/kustomization.yaml", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := kustomize.Run(fs, "/meshed", krusty.MakeDefaultOptions(), read); err == nil {
			t.Errorf("%q: built", text)
		}
	}
}
