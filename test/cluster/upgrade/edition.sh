#!/usr/bin/env bash
# Builds the edition of meshless that clusters have before this one (the commit in test/env/edition): its command into
# the cache, its proxy and init as images. All carry the commit in their version, so that both editions lie side by side
# on a node; the programs of test/env/edition.sh are as they were released. It prints the names of the images. The
# commit must be in this clone.
set -euo pipefail
cd "$(dirname "$0")/../../.."
commit=${1:-$(<test/env/edition)}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/meshless/editions/$commit
version=$(git show "$commit:internal/api/version.go" | sed -n 's/^const Version = "\(.*\)"$/\1/p')-$commit
if [ ! -x "$cache/meshless" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  git archive "$commit" | tar -x -C "$work"
  sed -i "s/^const Version = .*/const Version = \"$version\"/" "$work/internal/api/version.go"
  mkdir -p "$cache"
  for program in meshless-proxy meshless-init meshless; do # the last says that all are there
    (cd "$work" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$work/out/$program" "./cmd/$program")
    mv "$work/out/$program" "$cache/$program"
  done
fi
image() { # NAME USER
  local name=ghcr.io/meshless-dev/$1:$version
  printf 'FROM scratch\nCOPY meshless-%s /meshless-%s\nUSER %s\nENTRYPOINT ["/meshless-%s"]\n' "$1" "$1" "$2" "$1" |
    docker build -q -t "$name" -f - "$cache" >/dev/null
  echo "$name"
}
export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
image proxy 15000:15000
image init 0:0
