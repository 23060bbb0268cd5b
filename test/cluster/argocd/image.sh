#!/usr/bin/env bash
# Makes the image meshless-test/argocd:VERSION of Argo CD in $KBIN, and prints its name. As in the image of the project, the
# servers are links to one program, and git, kustomize and Helm lie beside it. Redis is in it as well, for want of an
# image of its own.
set -euo pipefail
cd "$(dirname "$0")/../../.."
KBIN=${KBIN:-$HOME/.cache/kube-bin}
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
image=meshless-test/argocd:$(cat "$KBIN/argocd.version")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$KBIN/argocd" "$work/argocd"
cp "$KBIN/helm3" "$work/helm"
CGO_ENABLED=0 go build -ldflags "-s -w" -o "$work/kustomize" sigs.k8s.io/kustomize/kustomize/v5
cat >"$work/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git tini redis-server && \
    groupadd -g 999 argocd && useradd -r -u 999 -g argocd -m -d /home/argocd argocd && \
    for server in server repo-server cmp-server application-controller applicationset-controller commit-server; do \
      ln -s argocd /usr/local/bin/argocd-$server; \
    done
COPY argocd helm kustomize /usr/local/bin/
ENV USER=argocd ARGOCD_GPG_ENABLED=false
USER 999
WORKDIR /home/argocd
ENTRYPOINT ["/usr/bin/tini", "--"]
DOCKERFILE
docker build -q -t "$image" "$work" >/dev/null
echo "$image"
