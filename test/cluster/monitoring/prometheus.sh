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
export GOFLAGS=-mod=mod
source=$(go mod download -json "github.com/prometheus/prometheus@$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
sed -e 's/^module .*/module build/' \
  -e "0,/^require (/s##require (\n\tgithub.com/prometheus/prometheus $version#" "$source/go.mod" >go.mod
cp "$source/go.sum" go.sum
chmod u+w go.sum
echo "building prometheus $version"
# Of the dozens of discoveries, which bring the clients of as many clouds, the one of Kubernetes.
printf 'package plugins\n\nimport _ "github.com/prometheus/prometheus/discovery/kubernetes"\n' >plugins.go
printf '{"Replace": {"%s": "%s"}}' "$source/plugins/plugins.go" "$work/plugins.go" >overlay.json
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -overlay overlay.json -o prometheus github.com/prometheus/prometheus/cmd/prometheus
mv prometheus "$KBIN/prometheus"
echo "$version" >"$KBIN/prometheus.version"
