#!/usr/bin/env bash
# Builds CoreDNS 1.12.0, which Kubernetes 1.33 brought, from the Go module proxy into $KBIN, a minute and a half the
# first time. It has the plugins that the lab's Corefile names. kube-build.sh builds the later version.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
version=v1.12.0
program=$KBIN/coredns-${version#v}
plugins=(bind errors cache kubernetes forward) # in the order in which they are asked
mkdir -p "$KBIN"
if "$program" -plugins 2>/dev/null | grep -q forward; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
{
  printf 'package main\n\nimport (\n\t"github.com/coredns/coredns/core/dnsserver"\n\t"github.com/coredns/coredns/coremain"\n'
  printf '\t_ "github.com/coredns/coredns/plugin/%s"\n' "${plugins[@]}"
  printf ')\n\nfunc init() { dnsserver.Directives = []string{'
  printf '"%s", ' "${plugins[@]}"
  printf '} }\n\nfunc main() { coremain.Run() }\n'
} >main.go
printf 'module coredns\n\ngo 1.24\n\nrequire github.com/coredns/coredns %s\n' "$version" >go.mod
export GOFLAGS=-mod=mod CGO_ENABLED=0
go mod tidy
echo "building CoreDNS $version"
go build -ldflags "-s -w" -o coredns .
mv coredns "$program"
