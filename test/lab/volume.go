//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// file is one file of a volume.
type file struct {
	data []byte
	mode os.FileMode
}

// volume is a volume on this machine: a projected one, or one of the pod's own that is empty at first.
type volume struct {
	dir     string
	source  *corev1.ProjectedVolumeSource // nil: the pod's containers write it
	written map[string]file
}

// addVolumes makes the pod's volumes.
func (p *Pod) addVolumes() error {
	for _, v := range p.spec.Volumes {
		at := filepath.Join(p.dir, "volume-"+v.Name)
		if v.Projected == nil && v.EmptyDir == nil {
			return fmt.Errorf("volume %s: the lab knows only projected volumes and emptyDir", v.Name)
		}
		mode := os.FileMode(0o755)
		if v.EmptyDir != nil {
			mode = 0o777 // as the kubelet makes it, for whatever user
		}
		if err := errors.Join(os.Mkdir(at, 0o755), os.Chmod(at, mode)); err != nil {
			return err
		}
		p.volumes[v.Name] = &volume{dir: at, source: v.Projected}
	}
	return nil
}

// at is what a mount shows. A path within the volume has to be there: the kubelet would make a folder of it.
func (v *volume) at(m corev1.VolumeMount) (string, error) {
	if m.SubPath == "" {
		return v.dir, nil
	}
	if v.source != nil {
		return "", fmt.Errorf("volume mount %q: the lab mounts projected volumes whole only", m.Name)
	}
	at := filepath.Join(v.dir, m.SubPath)
	if !exists(at) {
		return "", fmt.Errorf("volume mount %q: there is no %s in it", m.Name, m.SubPath)
	}
	return at, nil
}

// Sync brings the pod's projected volumes up to date, as the kubelet does some time after a Secret or a ConfigMap has
// changed.
func (p *Pod) Sync() error {
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	return p.syncVolumes(p.lab.objects)
}

// syncVolumes is Sync for a caller that holds lab.mu.
func (p *Pod) syncVolumes(o *Objects) error {
	for name, v := range p.volumes {
		if v.source == nil {
			continue
		}
		payload, err := p.project(v.source, o)
		if err == nil {
			err = v.write(payload)
		}
		if err != nil {
			return fmt.Errorf("pod %s: volume %s: %w", p.Name, name, err)
		}
	}
	return nil
}

// project collects the files of a projected volume.
func (p *Pod) project(source *corev1.ProjectedVolumeSource, o *Objects) (map[string]file, error) {
	payload := map[string]file{}
	mode := os.FileMode(corev1.ProjectedVolumeSourceDefaultMode)
	if source.DefaultMode != nil {
		mode = os.FileMode(*source.DefaultMode)
	}
	for _, s := range source.Sources {
		data, items := map[string][]byte{}, []corev1.KeyToPath(nil)
		switch {
		case s.Secret != nil:
			secret, ok := o.Secrets[p.Namespace+"/"+s.Secret.Name]
			if !ok {
				return nil, fmt.Errorf("no Secret %q", s.Secret.Name)
			}
			data, items = secret.Data, s.Secret.Items
		case s.ConfigMap != nil:
			config, ok := o.ConfigMaps[p.Namespace+"/"+s.ConfigMap.Name]
			if !ok {
				return nil, fmt.Errorf("no ConfigMap %q", s.ConfigMap.Name)
			}
			for key, value := range config.Data {
				data[key] = []byte(value)
			}
			items = s.ConfigMap.Items
		case s.DownwardAPI != nil:
			for _, item := range s.DownwardAPI.Items {
				if item.FieldRef == nil {
					return nil, fmt.Errorf("the lab knows only fieldRef in downwardAPI")
				}
				value, err := p.field(item.FieldRef.FieldPath)
				if err != nil {
					return nil, err
				}
				data[item.Path] = []byte(value)
			}
		default:
			return nil, fmt.Errorf("the lab projects Secrets, ConfigMaps and the downward API only")
		}
		if err := addFiles(payload, data, items, mode); err != nil {
			return nil, err
		}
	}
	return payload, nil
}

// addFiles selects keys as items say, or all; a path that is there already is an error, as at the API server.
func addFiles(payload map[string]file, data map[string][]byte, items []corev1.KeyToPath, mode os.FileMode) error {
	if len(items) == 0 {
		for key := range data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			return fmt.Errorf("no key %q", item.Key)
		}
		if _, twice := payload[item.Path]; twice {
			return fmt.Errorf("path %q is projected twice", item.Path)
		}
		at := mode
		if item.Mode != nil {
			at = os.FileMode(*item.Mode)
		}
		payload[item.Path] = file{value, at}
	}
	return nil
}

// write puts the payload in place as the kubelet's AtomicWriter does (kubernetes, pkg/volume/util/atomic_writer.go): a
// new dated directory, ..data renamed onto it, a link per file, and only then the old directory removed.
func (v *volume) write(payload map[string]file) error {
	if maps.EqualFunc(v.written, payload, func(a, b file) bool { return a.mode == b.mode && bytes.Equal(a.data, b.data) }) {
		return nil
	}
	old, _ := os.Readlink(filepath.Join(v.dir, "..data")) // none the first time
	fresh, err := os.MkdirTemp(v.dir, "..2026_01_02_15_04_05.")
	if err != nil {
		return err
	}
	err = os.Chmod(fresh, 0o755)
	for path, f := range payload {
		at := filepath.Join(fresh, path)
		err = errors.Join(err, os.WriteFile(at, f.data, 0o600), os.Chmod(at, f.mode))
	}
	next := filepath.Join(v.dir, "..data_tmp")
	err = errors.Join(err, os.Symlink(filepath.Base(fresh), next))
	if err == nil {
		err = os.Rename(next, filepath.Join(v.dir, "..data"))
	}
	for path := range payload {
		if link := filepath.Join(v.dir, path); err == nil && !exists(link) {
			err = os.Symlink(filepath.Join("..data", path), link)
		}
	}
	if err == nil && old != "" {
		err = os.RemoveAll(filepath.Join(v.dir, old))
	}
	v.written = payload
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
