package api

// Version is the release: the tag of the images that the function writes into manifests. `make images` builds them
// under it.
const Version = "v0.1.0"

// FilesEdition changes when a proxy of an earlier release can no longer read the files that this one writes: mesh.yaml
// and workload.json are read strictly. Templates that are held back at an earlier image are then written anew.
const FilesEdition = "1"

// The images of this release.
const (
	FnImage    = "ghcr.io/meshless-dev/fn:" + Version
	ProxyImage = "ghcr.io/meshless-dev/proxy:" + Version
	InitImage  = "ghcr.io/meshless-dev/init:" + Version

	InitIPTablesImage = "ghcr.io/meshless-dev/init-iptables:" + Version // InitImage with the programs of iptables
)
