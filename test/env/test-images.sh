#!/usr/bin/env bash
# Builds the images of others that tests on a cluster run, beside our own, and prints their names: Debian's servers,
# Traefik, Prometheus, CloudNativePG, Argo CD and Flux from their modules, and the edition of meshless before this one, whose commit this clone must have.
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
docker build -q -t meshless-test/servers:latest env/servers >/dev/null
echo meshless-test/servers:latest
# CloudNativePG reads the version of PostgreSQL in the tag.
docker tag meshless-test/servers:latest meshless-test/servers:15
echo meshless-test/servers:15
for program in ingress/traefik monitoring/prometheus; do
  bash "cluster/$program.sh" >&2
  bash env/program-image.sh "${program#*/}"
done
bash cluster/operators/cloudnative-pg.sh >&2
bash cluster/operators/image.sh
bash consumers/helm.sh >&2
bash cluster/argocd/argocd.sh >&2
bash cluster/argocd/image.sh
bash cluster/flux/flux.sh >&2
bash cluster/flux/image.sh
bash cluster/upgrade/edition.sh || echo "test/cluster/upgrade cannot run" >&2
