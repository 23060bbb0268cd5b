#!/usr/bin/env bash
# Unpacks Debian's newest OpenSSH, with git, rsync and all libraries, into $KBIN/openssh, a root directory of its own:
# 60 MB and a minute the first time. Debian 12 has 9.2, which marks a connection once; since 10.1 a client changes
# IP_TOS while it is open. The version is no pinned one, as Debian's mirror keeps no old ones of unstable: apt checks
# the signature of what it takes.
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
root=$KBIN/openssh
least=1:10.1
has() { dpkg --compare-versions "$1" ge "$least"; }

if has "$(cat "$root/version" 2>/dev/null || echo 0)"; then exit 0; fi
# The mirror is the one from which this machine's own packages come; on another distribution it is Debian's.
mirrors() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian'; }
[ -n "$(mirrors)" ] || apt-get update -qq
mirror=$(mirrors | sort -u | sed -n 1p)
mirror=${mirror:-https://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || { echo "openssh.sh: $keyring is missing: apt-get install debian-archive-keyring" >&2; exit 1; }

mkdir -p "$KBIN"
work=$(mktemp -d "$KBIN/openssh.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,archives/partial,root}
: >"$work/status" # nothing is installed, so that every library comes along
export APT_CONFIG=$work/apt.conf
cat >"$APT_CONFIG" <<CONF
Dir::State "$work";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
Dir::Cache::archives "$work/archives";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "$work/none";
Dir::Etc::preferencesparts "$work/none";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
mkdir "$work/none"
take() { # the suite's
  echo "deb [signed-by=$keyring] $mirror $1 main" >"$work/sources.list"
  apt-get update -qq
  apt-get install -qq -y --download-only openssh-client openssh-server git rsync dash coreutils >/dev/null
}
for folder in bin sbin lib lib64; do mkdir -p "$work/root/usr/$folder" && ln -s "usr/$folder" "$work/root/$folder"; done # as base-files has them
take sid || take testing # unstable may lack a library for a day
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done
version=$(dpkg-deb -f "$work"/archives/openssh-client_*.deb Version)
has "$version" || { echo "openssh.sh: Debian's newest OpenSSH is $version, which is older than $least" >&2; exit 1; }

# Of what the packages' scripts would do, a server of root and a client of app need this.
cd "$work/root"
mkdir -p dev proc mnt run/sshd root tmp etc/ssh var/empty
printf 'root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\napp:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >etc/passwd
printf 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\napp:x:1000:\n' >etc/group
chmod 1777 tmp
[ -e usr/bin/sh ] || ln -s dash usr/bin/sh
unshare -m sh -c 'mount --rbind /dev dev && chroot . ssh -V'
echo "$version" >version
rm -rf "$root"
mv "$work/root" "$root"
