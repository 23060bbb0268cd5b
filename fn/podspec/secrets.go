package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/internal/api"
)

// SecretUse is a way in which a pod gets at the content of a Secret.
type SecretUse struct {
	Secret string
	Field  string // below the pod template, like spec.containers[0].envFrom[1]
}

// SecretUses lists how the containers of a pod get at Secrets, but for the proxy's own volume: volumes, projected
// volumes, environment variables, and whole environments. Ephemeral containers are no part of a template.
func SecretUses(spec *corev1.PodSpec) (uses []SecretUse) {
	add := func(secret, format string, args ...any) {
		if secret != "" {
			uses = append(uses, SecretUse{secret, fmt.Sprintf(format, args...)})
		}
	}
	for i, v := range spec.Volumes {
		if v.Name == api.VolumeName {
			continue
		}
		if v.Secret != nil {
			add(v.Secret.SecretName, "spec.volumes[%d].secret", i)
		}
		if v.CSI != nil && v.CSI.NodePublishSecretRef != nil {
			add(v.CSI.NodePublishSecretRef.Name, "spec.volumes[%d].csi.nodePublishSecretRef", i)
		}
		if v.FlexVolume != nil && v.FlexVolume.SecretRef != nil {
			add(v.FlexVolume.SecretRef.Name, "spec.volumes[%d].flexVolume.secretRef", i)
		}
		if v.Projected == nil {
			continue
		}
		for j, source := range v.Projected.Sources {
			if source.Secret != nil {
				add(source.Secret.Name, "spec.volumes[%d].projected.sources[%d].secret", i, j)
			}
		}
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i, c := range list.containers {
			for j, e := range c.EnvFrom {
				if e.SecretRef != nil {
					add(e.SecretRef.Name, "spec.%s[%d].envFrom[%d].secretRef", list.name, i, j)
				}
			}
			for j, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					add(e.ValueFrom.SecretKeyRef.Name, "spec.%s[%d].env[%d].valueFrom.secretKeyRef", list.name, i, j)
				}
			}
		}
	}
	return uses
}
