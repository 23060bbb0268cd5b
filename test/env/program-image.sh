#!/usr/bin/env bash
# Makes the image meshless-test/PROGRAM of a program in $KBIN, and prints its name.
set -euo pipefail
program=$1
KBIN=${KBIN:-$HOME/.cache/kube-bin}
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$KBIN/$program" "$work/"
printf 'FROM scratch\nCOPY %s /%s\nUSER 65532:65532\nENTRYPOINT ["/%s"]\n' "$program" "$program" "$program" >"$work/Dockerfile"
docker build -q -t "meshless-test/$program:latest" "$work" >/dev/null
echo "meshless-test/$program:latest"
