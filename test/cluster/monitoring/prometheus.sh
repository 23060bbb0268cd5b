#!/usr/bin/env bash
# Builds Prometheus from the Go module proxy into $KBIN, in the version of examples/monitoring/prometheus and without the
# pages for browsers: Debian's has no discovery of Kubernetes. Two minutes on two cores the first time.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
version=v0.308.1
mkdir -p "$KBIN"
if [ "$(cat "$KBIN/prometheus.version" 2>/dev/null)" = "$version" ] && [ -x "$KBIN/prometheus" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
source=$(go mod download -json "github.com/prometheus/prometheus@$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
cp -r "$source" source
chmod -R u+w source
# Of the dozens of discoveries, which bring the clients of as many clouds, the one of Kubernetes.
printf 'package plugins\n\nimport _ "github.com/prometheus/prometheus/discovery/kubernetes"\n' >source/plugins/plugins.go
rm source/plugins/minimum.go
echo "building prometheus $version"
(cd source && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o ../prometheus ./cmd/prometheus)
mv prometheus "$KBIN/prometheus"
echo "$version" >"$KBIN/prometheus.version"
