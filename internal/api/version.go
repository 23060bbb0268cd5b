package api

// Version is the release: the tag of the images that the function writes into manifests. `make images` builds them
// under it.
const Version = "v0.1.0"

// The images of this release.
const (
	FnImage    = "ghcr.io/meshless-dev/fn:" + Version
	ProxyImage = "ghcr.io/meshless-dev/proxy:" + Version
	InitImage  = "ghcr.io/meshless-dev/init:" + Version

	InitIPTablesImage = "ghcr.io/meshless-dev/init-iptables:" + Version // InitImage with the programs of iptables
)
