#!/usr/bin/env bash
# render.sh DIR BRANCH renders the kustomization in DIR, verifies the result and pushes it to BRANCH of origin, as one file on a history of its own. It
# leaves the work tree alone, and with nothing changed it pushes nothing. It needs git, kustomize and meshless, and no secret.
set -euo pipefail
dir=$1 branch=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

kustomize build --enable-alpha-plugins --enable-exec "$dir" > "$work/manifests.yaml"
meshless verify "$work/manifests.yaml" >&2

blob=$(git hash-object -w "$work/manifests.yaml")
tree=$(printf '100644 blob %s\tmanifests.yaml\n' "$blob" | git mktree)
parent=$(git ls-remote origin "refs/heads/$branch" | cut -f1)
if [ -n "$parent" ]; then
  depth=()
  if [ "$(git rev-parse --is-shallow-repository)" = true ]; then depth=(--depth=1); fi # a full clone stays one
  git fetch -q ${depth[@]+"${depth[@]}"} origin "$parent"
  if [ "$(git rev-parse "$parent^{tree}")" = "$tree" ]; then
    echo "$branch: nothing changed"
    exit
  fi
fi
commit=$(git commit-tree "$tree" ${parent:+-p "$parent"} -m "Render $dir at $(git rev-parse --short HEAD)")
git push -q origin "$commit:refs/heads/$branch"
echo "$branch: $commit"
