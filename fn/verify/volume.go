package verify

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// files are what the proxy's volume brings: by file, "<kind>/<name>" of the object that it comes from.
type files map[string]string

// volume follows the projected volume to the objects that it names.
func (c *checker) volume(object report.Object, pod corev1.PodTemplateSpec, identity string) {
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == api.VolumeName && v.Projected != nil })
	if i < 0 {
		c.report.Error(object, "volumes", "lacks the projected volume %q", api.VolumeName)
		return
	}
	from := files{}
	for _, source := range pod.Spec.Volumes[i].Projected.Sources {
		brought := filesOf(source)
		if len(brought) == 0 || brought["*"] != "" {
			c.report.Error(object, "volumes", "has a source in the volume %q that may bring any file, or one of a kind that meshless does not write; render again", api.VolumeName)
		}
		for file, name := range brought {
			if from[file] != "" {
				c.report.Error(object, "volumes", "takes the file %s from two sources", file)
			}
			from[file] = name
		}
	}
	c.leafSource(object, pod.Annotations[api.TLSSecretAnnotation], identity, from)
	if from[api.MeshFile] != "configmap/"+api.MeshName || c.meshes[manifest.EffectiveNamespace(object)] == nil {
		c.report.Error(object, "volumes", "must mount configmap %q, which must be among the manifests", api.MeshName)
	}
	if from[api.WorkloadFile] != "annotation/"+api.WorkloadAnnotation {
		c.report.Error(object, "volumes", "must take %s from the annotation %s", api.WorkloadFile, api.WorkloadAnnotation)
	}
}

// leafSource checks where leaf, key and bundle come from: a Secret of ours, one of cert-manager's, or the user's own.
func (c *checker) leafSource(object report.Object, own, identity string, from files) {
	secret, found := strings.CutPrefix(from[api.LeafFile], "secret/")
	sealed, plain := from[api.SealedKeyFile], from[api.PlainKeyFile]
	if !found || sealed != "secret/"+secret && plain != "secret/"+secret || sealed != "" && plain != "" {
		c.report.Error(object, "volumes", "must take %s and %s from one Secret", api.LeafFile, api.SealedKeyFile)
		return
	}
	switch name := namespacedName(object, secret); {
	case own != "" || sealed == "" && c.managed[name] == nil && c.secrets[name] == nil:
		c.ownSource(object, own, secret, identity, from)
	case sealed == "" && c.managed[name] != nil:
		c.holds(object, secret, c.managed[name], identity)
		c.managedBundle(object, secret, from)
	default:
		c.holds(object, secret, c.secrets[name], identity)
		c.keySource(object, secret, c.secrets[name], from)
		c.ownBundle(object, from)
	}
}

// holds checks that the Secret is there and the workload's.
func (c *checker) holds(object report.Object, secret string, leaf *Leaf, identity string) {
	switch {
	case leaf == nil:
		c.report.Error(object, "volumes", "mounts secret %q, which is not among the manifests", secret)
	case leaf.Identity != identity:
		c.report.Error(object, "volumes", "mounts secret %q of %s, and is %s", secret, leaf.Identity, identity)
	}
}

// ownBundle checks that the proxy trusts whom the bundle of ours says.
func (c *checker) ownBundle(object report.Object, from files) {
	if from[api.BundleFile] != "configmap/"+api.BundleName || c.bundles[manifest.EffectiveNamespace(object)] == nil {
		c.report.Error(object, "volumes", "must mount configmap %q, which must be among the manifests", api.BundleName)
	}
}

// filesOf are the files that one source of a projected volume brings, and where from. A source without a list of items
// may bring anything, and is "*".
func filesOf(source corev1.VolumeProjection) map[string]string {
	files := map[string]string{}
	add := func(kind, name string, items []corev1.KeyToPath) {
		if len(items) == 0 {
			files["*"] = kind + "/" + name
		}
		for _, item := range items {
			files[path.Clean(item.Path)] = kind + "/" + name
		}
	}
	switch {
	case source.Secret != nil:
		add("secret", source.Secret.Name, source.Secret.Items)
	case source.ConfigMap != nil:
		add("configmap", source.ConfigMap.Name, source.ConfigMap.Items)
	case source.DownwardAPI != nil:
		for _, item := range source.DownwardAPI.Items {
			if item.FieldRef != nil {
				files[path.Clean(item.Path)] = "annotation/" + strings.TrimSuffix(strings.TrimPrefix(item.FieldRef.FieldPath, "metadata.annotations['"), "']")
			}
		}
	}
	return files
}
