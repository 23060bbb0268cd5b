# branch.sh BRANCH WORKLOAD switches to a branch, which is made, and adds a workload.
set -euo pipefail
cd "$HOME/repo"
git switch -q "$1" 2> /dev/null || git switch -qc "$1"
cat > "shop/base/$2.yaml" <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: $2}
spec:
  selector: {matchLabels: {app: $2}}
  template:
    metadata: {labels: {app: $2}}
    spec: {containers: [{name: $2, image: $2:1}]}
YAML
