#!/usr/bin/env bash
# Brings up a real single-node Kubernetes on this machine and loads what the cluster tests need: the images of the Dockerfile,
# the application of the tests under their name for it, `bash`, which examples/pod runs, and programs of others
# (env/test-images.sh). Then:
#
#	export KUBECONFIG=/tmp/kube/admin.conf
#	make e2e
#
# ENV_DIR holds kube-build.sh, kube-up.sh and base-images.sh (default: test/env); D is the cluster's state.
# On a cluster of your own this script is not needed: push the images, or load them with `kind load docker-image`.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
ENV_DIR=${ENV_DIR:-$top/test/env}
export D=${D:-/tmp/kube}
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0} # a Docker without buildx has the classic builder only

bash "$ENV_DIR/base-images.sh"
bash "$ENV_DIR/kube-build.sh"
# A kubelet of this state that no pid file names any more would hold the ports of the new one.
for pid in $(pgrep -f -- "/kubelet .*--root-dir=$D/kubelet" || true); do
  [ "$pid" = "$(cat "$D/kubelet.pid" 2>/dev/null)" ] || kill "$pid" || true
done
# A slow start of etcd makes the apiserver give up; what is up already is kept, so trying again is cheap.
for try in 1 2 3; do
  bash "$ENV_DIR/kube-up.sh" && break
  [ "$try" != 3 ] || exit 1
done
# A disk that is 85% full would make the kubelet remove images that no registry could bring back, that of the sandbox among them.
if ! grep -q imageGC "$D/kubelet.yaml"; then
  echo 'imageGCHighThresholdPercent: 100' >>"$D/kubelet.yaml"
  mapfile -d '' -t kubelet <"/proc/$(cat "$D/kubelet.pid")/cmdline"
  kill "$(cat "$D/kubelet.pid")"
  cd "$D"
  setsid "${kubelet[@]}" >log/kubelet 2>&1 &
  echo $! >kubelet.pid
  cd "$top"
fi

version=$(sed -n 's/^const Version = "\(.*\)"$/\1/p' "$top/internal/api/version.go")
images=(bash:latest)
for target in fn proxy init init-iptables shop; do
  image=ghcr.io/meshless-dev/$target:$version
  docker build -q --target "$target" -t "$image" "$top"
  images+=("$image")
done
if ! docker image inspect bash:latest >/dev/null 2>&1; then
  printf 'FROM debian:bookworm-slim\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends iputils-ping\nCMD ["bash"]\n' |
    docker build -q -t bash:latest -
fi
# The manifests of the tests name no version.
docker tag "ghcr.io/meshless-dev/shop:$version" meshless-test/app:latest
images+=(meshless-test/app:latest)
others=$(bash "$top/test/env/test-images.sh")
mapfile -t -O ${#images[@]} images <<<"$others"
docker save "${images[@]}" | ctr -a "$D/containerd/sock" -n k8s.io images import - >/dev/null
# Ready is more than up: pods need the node and their service account.
export KUBECONFIG=$D/admin.conf
for _ in $(seq 60); do
  kubectl -n default get serviceaccount default >/dev/null 2>&1 && kubectl wait --for=condition=Ready nodes --all --timeout=5s >/dev/null 2>&1 && break
  sleep 1
done
echo "export KUBECONFIG=$D/admin.conf"
