#!/usr/bin/env bash
# Builds CloudNativePG from the Go module proxy into $KBIN, with the manifest of its release beside it: some six minutes on
# two cores the first time.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
version=v1.28.0
mkdir -p "$KBIN"
if [ "$(cat "$KBIN/cloudnative-pg.version" 2>/dev/null)" = "$version" ] && [ -x "$KBIN/cloudnative-pg" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOFLAGS=-mod=mod
module=github.com/cloudnative-pg/cloudnative-pg
# What it needs has the versions of its own go.mod.
source=$(go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
sed -e 's/^module .*/module build/' -e '/^toolchain /d' \
  -e "0,/^require (/s##require (\n\t$module $version#" "$source/go.mod" >go.mod
cp "$source/go.sum" go.sum
chmod u+w go.sum
echo "building cloudnative-pg $version"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o cloudnative-pg "$module/cmd/manager"
install -m 644 "$source/releases/cnpg-${version#v}.yaml" "$KBIN/cloudnative-pg.yaml"
mv cloudnative-pg "$KBIN/cloudnative-pg"
echo "$version" >"$KBIN/cloudnative-pg.version"
