#!/usr/bin/env bash
# Builds sops and flux-decrypt (testdata/flux: what Flux's kustomize-controller does to a folder) from the Go module proxy into $KBIN, ten minutes on two cores the first time.
set -euo pipefail
cd "$(dirname "$0")"
KBIN=${KBIN:-$HOME/.cache/kube-bin}
sops=v3.13.3 flux=v1.9.6
mkdir -p "$KBIN"
export GOFLAGS=-mod=mod CGO_ENABLED=0 GOWORK=off
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT

if [ "$(go version -m "$KBIN/sops" 2>/dev/null | awk '$2 == "github.com/getsops/sops/v3" {print $3}')" != "$sops" ]; then
  echo "building sops $sops"
  mkdir "$work/sops"
  printf 'module build\n\ngo 1.26\n\nrequire github.com/getsops/sops/v3 %s\n' "$sops" >"$work/sops/go.mod"
  (cd "$work/sops" && go build -ldflags "-s -w" -o "$KBIN/sops" github.com/getsops/sops/v3/cmd/sops)
fi

# The decryptor is internal to its module, so the program is compiled there, in a copy.
stamp="$flux $(sha256sum <testdata/flux/main.go)"
if [ "$(cat "$KBIN/flux-decrypt.version" 2>/dev/null)" != "$stamp" ] || [ ! -x "$KBIN/flux-decrypt" ]; then
  echo "building flux-decrypt with kustomize-controller $flux"
  source=$(cd "$work" && go mod download -json "github.com/fluxcd/kustomize-controller@$flux" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  cp -r "$source" "$work/flux" && chmod -R u+w "$work/flux"
  mkdir "$work/flux/flux-decrypt" && cp testdata/flux/main.go "$work/flux/flux-decrypt/"
  cd "$work/flux"
  go mod edit -dropreplace github.com/fluxcd/kustomize-controller/api # a folder that the module's archive does not hold
  go build -ldflags "-s -w" -o "$KBIN/flux-decrypt" ./flux-decrypt
  echo "$stamp" >"$KBIN/flux-decrypt.version"
fi
