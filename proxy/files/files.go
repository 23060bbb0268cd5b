// Package files reads the proxy's files: one generation at a time, whole, from the directory that the kubelet
// maintains. It parses what needs no key (mesh.yaml, workload.json) and watches for the next generation. Nothing here
// verifies certificates.
package files

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// Generation is the content of the directory at one moment. LeafPEM, BundlePEM and the key are not checked yet.
type Generation struct {
	Mesh      *meshmap.Map
	Workload  *podplan.Workload
	LeafPEM   []byte
	BundlePEM []byte
	SealedKey []byte // armored age; nil when PlainKey is set
	Identity  []byte // age identities; nil when PlainKey is set
	PlainKey  []byte // PKCS#8, PEM, opened by another party (Flux with SOPS, cert-manager); nil when SealedKey is set
	Digest    [sha256.Size]byte
}

// The largest sizes that are read, in bytes. An object of the API server holds at most 1 MiB and an annotation 256 KiB;
// keys and certificates are far smaller, and a bound on the sealed key bounds the work that a forged age header can
// cause.
const (
	maxLeaf     = 64 << 10
	maxKey      = 32 << 10
	maxIdentity = 16 << 10
	maxBundle   = 1 << 20
	maxMesh     = 1 << 20
	maxWorkload = 256 << 10
)

// dataLink is what the kubelet's AtomicWriter swaps: a symbolic link to the directory that holds one generation
// (k8s.io/kubernetes/pkg/volume/util/atomic_writer.go).
const dataLink = "..data"

// Read reads the generation that directory holds now. The link is resolved once and every file read behind it, so that
// files of two generations are never mixed; when the kubelet removes the old directory meanwhile, Read starts again.
func Read(directory string) (*Generation, error) {
	const tries = 5
	var err error
	for range tries {
		var resolved string
		if resolved, err = resolve(directory); err != nil {
			return nil, err
		}
		var g *Generation
		if g, err = readAll(resolved); err == nil {
			return g, nil
		}
		again, resolveErr := resolve(directory)
		if !errors.Is(err, fs.ErrNotExist) || (resolveErr == nil && again == resolved) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("directory %s changed %d times while it was read: %w", directory, tries, err)
}

// resolve returns the directory behind ..data, or directory itself where there is no such link (a plain directory in
// tests).
func resolve(directory string) (string, error) {
	target, err := os.Readlink(filepath.Join(directory, dataLink))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return directory, nil
	case err != nil:
		return "", fmt.Errorf("directory %s: %w", directory, err)
	case filepath.IsAbs(target):
		return target, nil
	}
	return filepath.Join(directory, target), nil
}

func readAll(directory string) (*Generation, error) {
	r := &reader{directory: directory}
	g := &Generation{LeafPEM: r.file(api.LeafFile, maxLeaf), BundlePEM: r.file(api.BundleFile, maxBundle)}
	mesh, workload := r.file(api.MeshFile, maxMesh), r.file(api.WorkloadFile, maxWorkload)
	if g.SealedKey = r.optional(api.SealedKeyFile, maxKey); g.SealedKey != nil {
		g.Identity = r.file(api.IdentityFile, maxIdentity)
	} else {
		g.PlainKey = r.file(api.PlainKeyFile, maxKey)
	}
	if r.err != nil {
		return nil, r.err
	}
	g.Digest = sha256.Sum256(r.sum)
	var err error
	if g.Mesh, err = meshmap.Parse(mesh); err != nil {
		return nil, err
	}
	if g.Workload, err = podplan.ParseWorkload(workload); err != nil {
		return nil, err
	}
	return g, nil
}

// reader reads files until one fails, and digests name, size and content of each.
type reader struct {
	directory string
	sum       []byte
	err       error
}

func (r *reader) file(name string, limit int64) []byte {
	data := r.optional(name, limit)
	if data == nil && r.err == nil {
		r.err = fmt.Errorf("file %s is missing in %s, is its Secret or ConfigMap in the projected volume? %w", name, r.directory, fs.ErrNotExist)
	}
	return data
}

// optional is nil when the file does not exist.
func (r *reader) optional(name string, limit int64) []byte {
	if r.err != nil {
		return nil
	}
	f, err := os.Open(filepath.Join(r.directory, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.err = err
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	if err != nil {
		r.err = fmt.Errorf("file %s: %w", name, err)
		return nil
	}
	sum := sha256.Sum256(data)
	r.sum = append(append(r.sum, name+"\x00"...), sum[:]...)
	return append([]byte{}, data...)
}
