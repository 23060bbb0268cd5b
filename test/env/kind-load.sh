#!/usr/bin/env bash
# Builds the images that the cluster tests use, and loads them into the kind cluster of $KIND_CLUSTER (default kind).
# It needs Docker with a registry that answers, and kind:
#
#	kind create cluster
#	test/env/kind-load.sh
#	kind get kubeconfig >/tmp/kind.conf
#	KUBECONFIG=/tmp/kind.conf make e2e
set -euo pipefail
cd "$(dirname "$0")/../.."
make images
version=$(sed -n 's/^const Version = "\(.*\)"$/\1/p' internal/api/version.go)
docker tag "ghcr.io/meshless-dev/shop:$version" meshless-test/app:latest # the manifests of the tests name no version
docker image inspect bash:latest >/dev/null 2>&1 || docker pull -q bash:latest # examples/pod
others=$(bash test/env/test-images.sh)
kind load docker-image --name "${KIND_CLUSTER:-kind}" $others bash:latest meshless-test/app:latest \
  ghcr.io/meshless-dev/{fn,proxy,init,init-iptables,shop}:"$version"
