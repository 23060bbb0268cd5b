# A repository whose main is what the cluster has: the shop with its first certificates. Its origin is beside it.
set -euo pipefail
chmod +x "$HOME"/bin/*
git init -q --bare -b main "$HOME/origin.git"
cd "$HOME/repo"
git init -q -b main
git remote add origin "$HOME/origin.git"
meshless issue shop
git add -A
git commit -qm "the shop, with its first certificates"
git push -q -u origin main
