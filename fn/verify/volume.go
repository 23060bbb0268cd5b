package verify

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// volume follows the proxy's volume to the objects that it names. That it has the form that a render writes is checked
// with the rest of the pod.
func (c *checker) volume(p *pod) {
	files, identity := p.plan.Files, p.plan.Workload.SPIFFEID
	own := p.spec.Annotations[api.TLSSecretAnnotation]
	sealed := files.KeyFile == api.SealedKeyFile
	switch name := namespacedName(p.object, files.LeafSecret); {
	case own != "" || !sealed && c.managed[name] == nil && c.secrets[name] == nil:
		c.ownSource(p, own)
	case !sealed && c.managed[name] != nil:
		c.holds(p, c.managed[name], identity)
		c.managedBundle(p)
	default:
		c.holds(p, c.secrets[name], identity)
		c.keySource(p, c.secrets[name])
		c.ownBundle(p)
	}
	if want := p.meshName(); cmp.Or(files.Mesh, api.MeshName(p.plan.Package)) != want {
		c.report.Error(p.object, p.sources(), "must mount configmap %q: a hook before or after the rest of the package has its own. Render again, after whatever wrote the annotation of the hook", want)
		return
	}
	switch mesh := c.meshOf(p); {
	case mesh == nil:
		c.report.Error(p.object, p.sources(), "must mount configmap %q, which must be among the manifests", cmp.Or(files.Mesh, api.MeshName(p.plan.Package)))
	case mesh.Package != p.plan.Package:
		c.report.Error(p.object, p.field("metadata.labels["+api.PackageLabel+"]"), "is %q, and the mesh map of the namespace is of package %q; render the whole package again", p.plan.Package, mesh.Package)
	}
}

// sources is the path of the sources of the proxy's volume.
func (p *pod) sources() string { return p.field(p.sourcesField()) }

func (p *pod) sourcesField() string {
	i := slices.IndexFunc(p.spec.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == api.VolumeName })
	return fmt.Sprintf("spec.volumes[%d].projected.sources", i)
}

// holds checks that the Secret is there and the workload's.
func (c *checker) holds(p *pod, leaf *Leaf, identity string) {
	switch secret := p.plan.Files.LeafSecret; {
	case leaf == nil:
		c.report.Error(p.object, p.sources(), "mounts secret %q, which is not among the manifests", secret)
	case leaf.Identity != identity:
		c.report.Error(p.object, p.sources(), "mounts secret %q of %s, and is %s", secret, leaf.Identity, identity)
	}
}

// ownBundle checks that the proxy trusts whom the bundle of ours says.
func (c *checker) ownBundle(p *pod) {
	want, bundle := api.BundleName(p.plan.Package), c.bundleObjects[p.namespace()]
	if p.plan.Files.Mesh != "" {
		want = p.asWorkload().HookBundleName()
		if p.plan.Files.Bundle == (podplan.Source{Name: want, Key: api.BundleFile}) && c.copied(p, want) {
			return
		}
	}
	if p.plan.Files.Bundle.Name != want || p.plan.Files.Bundle.Key != api.BundleFile || bundle == nil || bundle.GetName() != want {
		c.report.Error(p.object, p.sources(), "must mount configmap %q, which must be among the manifests", want)
	}
}

// meshName is the name of the mesh map that the pod must mount.
func (p *pod) meshName() string {
	if p.declaration == nil && manifest.ApartHook(p.item) != "" {
		return p.asWorkload().HookMeshName()
	}
	return api.MeshName(p.plan.Package)
}
