#!/usr/bin/env bash
# Builds meshless-test/odd:latest, and loads it where the node of this machine (D, default /tmp/kube) is. For kind, afterwards:
#
#	kind load docker-image meshless-test/odd:latest
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
(cd "$here" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$context/odd" ./app)
printf 'FROM scratch\nCOPY odd /odd\nUSER 65534:65534\nENTRYPOINT ["/odd"]\n' >"$context/Dockerfile"
DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} docker build -q -t meshless-test/odd:latest "$context" >/dev/null
sock=${D:-/tmp/kube}/containerd/sock
[ ! -S "$sock" ] || docker save meshless-test/odd:latest | ctr -a "$sock" -n k8s.io images import - >/dev/null
