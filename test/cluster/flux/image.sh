#!/usr/bin/env bash
# Makes the images of Flux's controllers of the programs in $KBIN, and prints their names.
set -euo pipefail
cd "$(dirname "$0")/../.."
for controller in source-controller kustomize-controller; do
  bash env/program-image.sh "$controller"
done
