#!/usr/bin/env bash
# Makes the image meshless-test/cloudnative-pg of the program in $KBIN, and prints its name. Files lie as in the image of
# the project: the operator reads the program of its architecture, and pods run /manager.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
image=meshless-test/cloudnative-pg:$(sed 's/^v//' "$KBIN/cloudnative-pg.version")
program=operator/manager_$(go env GOARCH)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root/operator"
cp "$KBIN/cloudnative-pg" "$work/root/$program"
ln -s "$program" "$work/root/manager"
tar -C "$work/root" --owner=0 --group=0 -cf "$work/root.tar" .
rm -r "$work/root"
printf 'FROM scratch\nADD root.tar /\nUSER 65532:65532\nENTRYPOINT ["/manager"]\n' >"$work/Dockerfile"
docker build -q -t "$image" "$work" >/dev/null
echo "$image"
