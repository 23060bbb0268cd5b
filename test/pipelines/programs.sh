#!/usr/bin/env bash
# Brings act from the Go module proxy, gitlab-ci-local from npm and pre-commit from PyPI into $KBIN, two minutes the
# first time. It needs node 20 with npm, and python3 with venv. gitlab-ci-local 4.75 does not start on node 20.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
mkdir -p "$KBIN"
act=v0.2.89 local=4.61.0 precommit=4.7.0

if [ "$(go version -m "$KBIN/act" 2>/dev/null | awk '$1 == "mod" {print $3}')" != "$act" ]; then
  echo "building act $act"
  GOFLAGS=-mod=mod CGO_ENABLED=0 GOWORK=off GOBIN=$KBIN go install -ldflags "-s -w" "github.com/nektos/act@$act"
fi
# from_registry PROGRAM VERSION FOLDER FILE COMMAND... installs into a new folder, and puts the program beside it last:
# an installation that failed is none.
from_registry() {
  local name=$1 version=$2 dir=$KBIN/$3 file=$4
  shift 4
  if [ "$(cat "$dir/version" 2>/dev/null)" = "$version" ] && [ -x "$KBIN/$name" ]; then return; fi
  echo "installing $name $version"
  rm -rf "$dir" "${KBIN:?}/$name"
  mkdir "$dir"
  "$@"
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$dir/$file" >"$KBIN/$name"
  chmod +x "$KBIN/$name"
  echo "$version" >"$dir/version"
}
from_registry gitlab-ci-local "$local" gitlab-ci-local.npm node_modules/.bin/gitlab-ci-local \
  npm install --prefix "$KBIN/gitlab-ci-local.npm" --no-audit --no-fund --ignore-scripts --silent "gitlab-ci-local@$local"
venv() { python3 -m venv "$KBIN/pre-commit.venv" && "$KBIN/pre-commit.venv/bin/pip" install -q "pre-commit==$precommit"; }
from_registry pre-commit "$precommit" pre-commit.venv bin/pre-commit venv
