#!/usr/bin/env bash
# render.sh [--over COMMIT] DIR BRANCH [COMMAND...]
#
# Renders the kustomization in DIR, verifies the result and pushes it to BRANCH of origin, as the one file
# manifests.yaml on a history of its own. It needs git and meshless, and no secret. It leaves the work tree alone.
# With nothing changed the branch gets no commit.
#
# COMMAND prints the manifests; without it that is `meshless build DIR`. For a chart or any other stream, DIR is the
# folder of state, such as shop/mtls. $VERIFY_FLAGS are flags of `meshless verify`, such as --no-exclusions.
#
# Each commit of the branch says which commit of the source it renders (Source-Commit). The ref refs/meshless/BRANCH
# says which commit was rendered last, as well when that changed nothing. A run is refused whose HEAD does not contain
# both, and one that `meshless verify --base` refuses against that source. A person who has looked at it says so by
# --over and the commit that the branch is at: that holds for this one commit.
set -euo pipefail

fail() {
  printf 'render.sh: %s\n' "$*" >&2
  exit 1
}
over=
if [ "${1-}" = --over ] && [ $# -ge 2 ]; then
  over=$2
  shift 2
fi
if [ $# -lt 2 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: render.sh [--over COMMIT] DIR BRANCH [COMMAND...]" >&2
  exit 2
fi
dir=$1 branch=$2
[ -d "$dir" ] || fail "$dir: is no folder; give that of the kustomization, or of the state"
shift 2
if [ $# = 0 ]; then set -- meshless build "$dir"; fi
mark=refs/meshless/$branch

head=$(git rev-parse --verify HEAD)
folder=$(git -C "$dir" rev-parse --show-prefix) # from the top, with a slash at its end, or ""
state=$dir                                      # a folder that is a kpt package as well would be read as one
if [ -f "$dir/mtls/kustomization.yaml" ]; then state=$dir/mtls; fi
if [ -n "$(git status --porcelain --untracked-files=no)$(git status --porcelain -- "$dir")" ]; then
  fail "the work tree is not what HEAD says: commit first (git status)"
fi
work=$(mktemp -d "${RUNNER_TEMP:-${TMPDIR:-/tmp}}/render.XXXXXX")
trap 'rm -rf "$work"' EXIT # bash runs it for SIGINT and SIGTERM, too

# fetch brings one commit; a full clone stays one.
fetch() {
  local depth=()
  if [ "$(git rev-parse --is-shallow-repository)" = true ]; then depth=(--depth=1); fi
  git cat-file -e "$1^{commit}" 2>/dev/null || git fetch -q --no-tags ${depth[@]+"${depth[@]}"} origin "$1"
}

# trailer is what the message of a commit says.
trailer() { git log -1 --format="%(trailers:key=$2,valueonly)" "$1"; }

# contained tells whether HEAD contains a commit. A shallow clone is deepened until it can be told.
contained() {
  local have depth=50
  until git merge-base --is-ancestor "$1" "$head" 2>/dev/null; do
    [ "$(git rev-parse --is-shallow-repository)" = true ] || return 1
    have=$(git rev-list --count "$head")
    git fetch -q --no-tags --deepen="$depth" origin "$head"
    [ "$(git rev-list --count "$head")" -gt "$have" ] || return 1
    depth=$((depth * 2))
  done
}

# check refuses what would undo a later render.
check() {
  local commit from
  [ -n "$tip$marked" ] || return 0
  for commit in $tip $marked; do
    from=$(trailer "$commit" Source-Commit)
    [[ $from =~ ^[0-9a-f]{40,64}$ ]] || fail "$branch is at $commit, which is no commit of render.sh: somebody" \
      "wrote it. Look at what it holds; --over ${tip:-$marked} renders over it"
    contained "$from" || fail "$from was rendered into $branch, and HEAD, $head, does not contain it." \
      "This run is of an older commit: then render the newest. Or the history of the source was rewritten: then look" \
      "at what changes, and --over ${tip:-$marked} renders over it"
    [ "$(trailer "$commit" Source-Folder)" = "${folder:-.}" ] || fail "$branch holds what" \
      "$(trailer "$commit" Source-Folder) renders to, and this is ${folder:-.}: take another branch, or" \
      "--over ${tip:-$marked}"
    source=$from # of the mark where there is one, which is the latest
  done
  rm -rf "$work/base"
  mkdir "$work/base"
  # not git archive: attributes of that commit (export-ignore) would say what is left out
  GIT_INDEX_FILE=$work/index git read-tree "$source:$folder"
  GIT_INDEX_FILE=$work/index git --work-tree="$work/base" checkout-index -a
  meshless verify --base "$work/base" "$state" >&2 || fail "$branch is at $source, and this goes back behind it." \
    "Mend it as above; --over ${tip:-$marked} renders over it"
}

# consent checks that a person has seen what the branch holds now, and says what is undone.
consent() {
  [ "$over" = "${tip:-$marked}" ] || fail "--over $over: $branch is at ${tip:-${marked:-nothing}} now: look again"
  if git cat-file -p "${tip:-$marked}:manifests.yaml" >"$work/base.yaml" 2>/dev/null; then
    meshless verify --base "$work/base.yaml" "$work/manifests.yaml" >&2 ||
      echo "render.sh: --over $over: goes on all the same" >&2
  fi
}

"$@" >"$work/manifests.yaml"
# shellcheck disable=SC2086 # flags are words
meshless verify ${VERIFY_FLAGS-} "$work/manifests.yaml" >&2
blob=$(git hash-object -w --no-filters "$work/manifests.yaml")
tree=$(printf '100644 blob %s\tmanifests.yaml\n' "$blob" | git mktree)
none=$(git mktree </dev/null)
message="Render ${folder:-.} at $(git rev-parse --short HEAD)

Source-Commit: $head
Source-Folder: ${folder:-.}"

for try in 1 2 3 4 5; do
  git ls-remote origin "refs/heads/$branch" "$mark" >"$work/refs"
  tip=$(awk -v ref="refs/heads/$branch" '$2 == ref {print $1}' "$work/refs")
  marked=$(awk -v ref="$mark" '$2 == ref {print $1}' "$work/refs")
  source=
  for commit in $tip $marked; do fetch "$commit"; done
  if [ -n "$over" ]; then consent; else check; fi

  push=() said="$branch: nothing changed"
  if [ -n "$over" ] || [ -z "$tip" ] || [ "$(git rev-parse "$tip^{tree}")" != "$tree" ]; then
    commit=$(git commit-tree "$tree" ${tip:+-p "$tip"} -m "$message")
    push=("$commit:refs/heads/$branch") said="$branch: $commit"
  fi
  if [ ${#push[@]} -gt 0 ] || [ "$source" != "$head" ]; then
    # Every run moves the mark, and only from where it has seen it: so of two runs at once one has to look again.
    push+=("$(git commit-tree "$none" -m "$message"):$mark")
    if ! git push -q --atomic --force-with-lease="$mark:$marked" origin "${push[@]}"; then
      echo "render.sh: $branch: the push was refused, try $try of 5" >&2
      if [ "$try" -lt 5 ]; then sleep "$try"; fi
      continue
    fi
  fi
  echo "$said"
  exit
done
fail "$branch: nothing was pushed"
