#!/usr/bin/env bash
# Builds every program that tests use and Debian lacks into $KBIN: Kubernetes, CoreDNS, the edition before this, etcd,
# ghostunnel, sops and Flux's decryptor, Traefik, Prometheus, kube-router, CloudNativePG, kube-score, Gatekeeper's gator
# and a part of Kyverno, Helm 3 and 4, Argo CD, two of Flux's controllers, act, gitlab-ci-local and pre-commit; and
# unpacks Debian's newest OpenSSH. 50 to 60 minutes on two cores the first time, seconds when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
bash env/kube-build.sh
bash env/coredns.sh
bash env/edition.sh
bash env/openssh.sh
bash controlplane/etcd.sh
bash interop/ghostunnel.sh
bash sops/programs.sh
bash cluster/flux/flux.sh
bash cluster/ingress/traefik.sh
bash cluster/monitoring/prometheus.sh
bash cluster/restricted/kube-router.sh
bash cluster/operators/cloudnative-pg.sh
bash policytools/programs.sh
bash consumers/helm.sh
bash pipelines/programs.sh
bash cluster/argocd/argocd.sh
