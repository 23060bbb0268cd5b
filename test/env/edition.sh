#!/usr/bin/env bash
# Builds the programs of the edition before this one from its commit (the file edition) into $KBIN/edition-<commit>, a minute the first
# time: tests run them beside the programs of this work tree.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
commit=$(<"$(dirname "$0")/edition")
target=$KBIN/edition-$commit
programs=(meshless meshless-proxy meshless-init)
for program in "${programs[@]}"; do [ -x "$target/$program" ] || missing=yes; done
[ "${missing:-}" ] || exit 0
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
if ! git -C "$repository" cat-file -e "$commit^{commit}"; then
  echo "commit $commit is not in this checkout: tests of the upgrade are skipped" >&2
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$repository" archive "$commit" | tar -x -C "$work"
mkdir -p "$target"
echo "building the edition of commit $commit"
cd "$work"
CGO_ENABLED=0 go build -ldflags "-s -w" -buildvcs=false -o "$target/" "${programs[@]/#/./cmd/}"
