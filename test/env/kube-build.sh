#!/usr/bin/env bash
# Builds a real Kubernetes (API server, controller manager, scheduler, kubelet, kube-proxy, and kubectl where there is
# none) and CoreDNS from the Go module proxy into $KBIN: six to fifteen minutes on two cores the first time. What is
# there in these versions is kept, so a build that was interrupted goes on where it was.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
kubernetes=1.36.3 coredns=v1.15.0
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
command -v kubectl >/dev/null || programs+=(kubectl)

mkdir -p "$KBIN"
if [ "$(cat "$KBIN/version" 2>/dev/null)" != "$kubernetes $coredns" ]; then
  rm -f "${programs[@]/#/$KBIN/}" "$KBIN/coredns"
  echo "$kubernetes $coredns" >"$KBIN/version"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOFLAGS=-mod=mod CGO_ENABLED=0

build() { # PROGRAM PACKAGE LDFLAGS
  echo "building $1"
  go build -ldflags "-s -w $3" -o "$work/$1" "$2"
  mv "$work/$1" "$KBIN/$1"
}

# The module of Kubernetes replaces its own parts by folders, which a dependent cannot: the same versions, by name.
enter_kubernetes() {
  [ ! -e "$work/kubernetes" ] || return 0
  mkdir "$work/kubernetes" && cd "$work/kubernetes"
  local source
  source=$(go mod download -json "k8s.io/kubernetes@v$kubernetes" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
  sed -e 's/^module .*/module kube/' \
    -e "s#=> \./staging/src/\(k8s\.io/[^ ]*\)#=> \1 v0.${kubernetes#1.}#" \
    -e "0,/^require (/s##require (\n\tk8s.io/kubernetes v$kubernetes#" "$source/go.mod" >go.mod
  cp "$source/go.sum" go.sum
  chmod u+w go.sum
}

base=k8s.io/component-base/version
flags="-X $base.gitVersion=v$kubernetes -X $base.gitMajor=1 -X $base.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
flags+=" -X k8s.io/client-go/pkg/version.gitVersion=v$kubernetes"
for program in "${programs[@]}"; do
  [ ! -x "$KBIN/$program" ] || continue
  enter_kubernetes
  build "$program" "k8s.io/kubernetes/cmd/$program" "$flags"
done
if [ ! -x "$KBIN/coredns" ]; then
  mkdir "$work/coredns.module" && cd "$work/coredns.module"
  printf 'module coredns\n\ngo 1.26\n\nrequire github.com/coredns/coredns %s\n' $coredns >go.mod
  build coredns github.com/coredns/coredns ""
fi
command -v kubectl >/dev/null || ln -sf "$KBIN/kubectl" /usr/local/bin/kubectl
