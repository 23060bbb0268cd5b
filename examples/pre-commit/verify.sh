#!/usr/bin/env bash
# verify.sh [DIR...] builds each folder and verifies what comes of it; what is missing, `meshless issue DIR` makes.
# Without arguments the folders are those of the index with a MutualTLS. It reads the work tree, which pre-commit has
# made equal to the index.
set -euo pipefail
if ! command -v meshless >/dev/null; then
  echo "verify.sh: meshless is not in the PATH: go install github.com/meshless-dev/meshless/cmd/meshless@VERSION" >&2
  exit 1
fi
cd "$(git rev-parse --show-toplevel)"
if [ $# = 0 ]; then
  mapfile -t configs < <(git grep -l --cached '^kind: MutualTLS$' -- '*.yaml' '*.yml')
  for config in "${configs[@]}"; do
    folder=$(dirname "$config")
    for file in kustomization.yaml kustomization.yml Kustomization Kptfile; do
      if [ -e "$folder/$file" ]; then
        set -- "$@" "$folder"
        break
      fi
    done
  done
fi
work=$(mktemp)
trap 'rm -f "$work"' EXIT
status=0
for folder in "$@"; do
  echo "$folder"
  if compgen -G "$folder/[Kk]ustomization*" >/dev/null; then
    meshless build "$folder" >"$work" && meshless verify "$work" || status=1
  else
    meshless verify "$folder" || status=1 # a kpt package is rendered in place
  fi
done
exit "$status"
