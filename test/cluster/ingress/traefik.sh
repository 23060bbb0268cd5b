#!/usr/bin/env bash
# Builds Traefik from the Go module proxy into $KBIN: some ten minutes on two cores the first time.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
version=v3.6.12
mkdir -p "$KBIN"
if [ "$(cat "$KBIN/traefik.version" 2>/dev/null)" = "$version" ] && [ -x "$KBIN/traefik" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOFLAGS=-mod=mod
# Its module replaces others, which a dependent must repeat: the module's own go.mod under another name, and itself.
source=$(go mod download -json "github.com/traefik/traefik/v3@$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
sed -e 's/^module .*/module build/' \
  -e "0,/^require (/s##require (\n\tgithub.com/traefik/traefik/v3 $version#" "$source/go.mod" >go.mod
cp "$source/go.sum" go.sum
chmod u+w go.sum
echo "building traefik $version"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=$version" \
  -o traefik github.com/traefik/traefik/v3/cmd/traefik
mv traefik "$KBIN/traefik"
echo "$version" >"$KBIN/traefik.version"
