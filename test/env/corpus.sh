#!/usr/bin/env bash
# Makes the manifests of others that tests render and run: it downloads them at pinned commits into
# $MESHLESS_CORPUS (default ~/.cache/meshless/corpus), and checks every file by its digest. A folder shared/corpus
# beside the repository is used instead where there is one. corpus.go finds them for the tests. They are under the
# Apache License 2.0 and not ours, so none is in the repository.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
beside=$top/../shared/corpus
if [ -z "${MESHLESS_CORPUS:-}" ] && [ -d "$beside" ]; then
  cd "$beside"
else
  corpus=${MESHLESS_CORPUS:-${XDG_CACHE_HOME:-$HOME/.cache}/meshless/corpus}
  mkdir -p "$corpus" && cd "$corpus"
fi

# Name, digest of what the tests read, repository, commit, path.
files='
argo-cd-ha.yaml bd76d728ea8ead9d24b9574456e98732cde3f1d12672d78ea0dd0be1282e87f9 argoproj/argo-cd 37ee0097cf851bc2dd7665fc081bbce61a7e836e manifests/ha/install.yaml
bookinfo.yaml ec82aaf76a031b83b26126da65e04e56c5791f0825ee2382d5c05801d4406bc5 istio/istio 86c9f01fd735fb01d8192f5bcaf0d424afb7f14c samples/bookinfo/platform/kube/bookinfo.yaml
ingress-nginx.yaml 502fddca66b09c20dd48b6d0a792a9671cd663a3a0d2a8bda5ae990d13b6c5b2 kubernetes/ingress-nginx dbb11b92ddb77bee9c35e462479129354c84f939 deploy/static/provider/cloud/deploy.yaml
longhorn.yaml 597ac794ffb7baeb53f16b14cebe1e77e11ed0f4d47f87cb38c592f8660ac8e0 longhorn/longhorn bb2f2223a6f7b5d97a98b7e765937fe48a1b96f7 deploy/longhorn.yaml
metallb.yaml 9f5947412769bec535cbaf9c4a86077bcc6dd335f36c35440552f61b16fd8447 metallb/metallb 7938d3f89b8bd808dae2e42d97d6ae7e18e9ed54 config/manifests/metallb-native.yaml
online-boutique.yaml 41a4736597543ee562c673c0c0446e2cc4bddf2b816c294690e83b38cfcc66a2 GoogleCloudPlatform/microservices-demo 34ffea9175946982c3088ed84994fe6019ad6e92 release/kubernetes-manifests.yaml
sock-shop.yaml 02d70d2c7b576ea8b18fc436e18b9158d5b662e50180998b82127d8050813771 microservices-demo/microservices-demo 9dff06fae4981921caec6a62393a6ebfce4b3e3f deploy/kubernetes/complete-demo.yaml
'

# without_crds leaves out the CRDs, which are megabytes, but for those with a conversion webhook: that names a Service.
without_crds() {
  awk 'BEGIN { RS = "\n---\n" }
    /(^|\n)kind: CustomResourceDefinition/ && !/\n  conversion:/ { next }
    { printf "%s%s", begun, $0; begun = RS }'
}

is() { # FILE DIGEST
  [ -f "$1" ] && sha256sum --check --status <<<"$2  $1"
}

while read -r name digest repository commit path; do
  [ -n "$name" ] || continue
  if is "$name" "$digest"; then continue; fi
  url=https://raw.githubusercontent.com/$repository/$commit/$path
  if ! curl -fsSL --retry 3 --max-time 120 -o "$name.new" "$url"; then
    rm -f "$name.new"
    echo "$PWD/$name is missing or another file, and $url cannot be had." >&2
    echo "Put the files there by hand, or name a folder that holds them: MESHLESS_CORPUS=DIR" >&2
    exit 1
  fi
  if ! is "$name.new" "$digest"; then
    without_crds <"$name.new" >"$name.part"
    mv "$name.part" "$name.new"
  fi
  if ! is "$name.new" "$digest"; then
    rm -f "$name.new"
    echo "$url is not what the tests were written for: its digest is not $digest" >&2
    exit 1
  fi
  mv "$name.new" "$name"
done <<<"$files"
echo "the corpus is in $PWD"
