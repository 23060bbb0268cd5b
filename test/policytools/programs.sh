#!/usr/bin/env bash
# Builds kube-score, Gatekeeper's gator and kyverno-podsecurity (testdata/kyverno) from the Go module proxy into $KBIN,
# five minutes on two cores the first time.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
KBIN=${KBIN:-$HOME/.cache/kube-bin}
mkdir -p "$KBIN"
export GOFLAGS=-mod=mod CGO_ENABLED=0 GOWORK=off
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() { # PROGRAM MODULE VERSION PACKAGE
  if [ "$(go version -m "$KBIN/$1" 2>/dev/null | awk -v module="$2" '$2 == module {print $3}')" = "$3" ]; then return; fi
  echo "building $1 $3"
  mkdir "$work/$1"
  printf 'module build\n\ngo 1.26\n\nrequire %s %s\n' "$2" "$3" >"$work/$1/go.mod"
  (cd "$work/$1" && go build -ldflags "-s -w" -o "$KBIN/$1" "$2/$4")
}
build kube-score github.com/zegl/kube-score v1.20.0 cmd/kube-score
build gator github.com/open-policy-agent/gatekeeper/v3 v3.23.1 cmd/gator

# Kyverno replaces a module by its fork, and only the main module of a build may.
kyverno=v1.19.1 fork=v0.0.0-20251031094455-46f20778634f
stamp="$kyverno $(sha256sum <testdata/kyverno/main.go)"
if [ "$(cat "$KBIN/kyverno-podsecurity.version" 2>/dev/null)" != "$stamp" ] || [ ! -x "$KBIN/kyverno-podsecurity" ]; then
  echo "building kyverno-podsecurity with Kyverno $kyverno"
  mkdir "$work/kyverno" && cp "$here/testdata/kyverno/main.go" "$work/kyverno/" && cd "$work/kyverno"
  printf 'module build\n\ngo 1.26.6\n\nrequire github.com/kyverno/kyverno %s\n\nreplace k8s.io/pod-security-admission => github.com/kyverno/pod-security-admission %s\n' \
    "$kyverno" "$fork" >go.mod
  go build -ldflags "-s -w" -o "$KBIN/kyverno-podsecurity" .
  echo "$stamp" >"$KBIN/kyverno-podsecurity.version"
fi
