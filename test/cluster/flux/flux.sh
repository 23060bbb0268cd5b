#!/usr/bin/env bash
# Builds Flux's source-controller and kustomize-controller from the Go module proxy into $KBIN, with the manifests of each beside it (flux-config/): some ten
# minutes on two cores the first time. The proxy does not have notification-controller and the controllers of image automation.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
mkdir -p "$KBIN/flux-config"
export GOFLAGS=-mod=mod CGO_ENABLED=0 GOWORK=off
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT

build() { # CONTROLLER VERSION, and lines for `go mod edit`
  local name=$1 version=$2 source
  shift 2
  if [ "$(cat "$KBIN/$name.version" 2>/dev/null)" = "$version $*" ] && [ -x "$KBIN/$name" ]; then return; fi
  echo "building $name $version"
  # Its code is internal, so it is compiled in a copy of its module.
  source=$(cd "$work" && go mod download -json "github.com/fluxcd/$name@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  cp -r "$source" "$work/$name" && chmod -R u+w "$work/$name"
  cd "$work/$name"
  go mod edit -dropreplace "github.com/fluxcd/$name/api" "$@" # a folder that the module's archive does not hold
  go build -ldflags "-s -w" -o "$work/program" .
  rm -rf "$KBIN/flux-config/$name" && mkdir "$KBIN/flux-config/$name"
  cp -r config/crd config/rbac config/manager "$KBIN/flux-config/$name/"
  mv "$work/program" "$KBIN/$name"
  echo "$version $*" >"$KBIN/$name.version"
}

build kustomize-controller v1.9.6
build source-controller v1.9.6 -require=github.com/fluxcd/pkg/artifact@v0.18.0 # the version that it names cannot be had
