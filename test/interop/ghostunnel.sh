#!/usr/bin/env bash
# Builds ghostunnel from the Go module proxy into $KBIN, half a minute the first time. It needs a C compiler: without cgo this version does not compile.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
version=v1.8.4
mkdir -p "$KBIN"
if [ "$(go version -m "$KBIN/ghostunnel" 2>/dev/null | awk '$1 == "mod" {print $3}')" = "$version" ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# The go-landlock that it asks for is not in the checksum database; a later one is.
printf 'module build\n\ngo 1.26\n\nrequire (\n\tgithub.com/ghostunnel/ghostunnel %s\n\tgithub.com/landlock-lsm/go-landlock v0.11.0\n)\n' "$version" >go.mod
echo "building ghostunnel $version"
GOFLAGS=-mod=mod CGO_ENABLED=1 go build -ldflags "-s -w" -o "$KBIN/ghostunnel" github.com/ghostunnel/ghostunnel
