#!/bin/sh
# Installs what building fleet and booting a lab need from Debian's packages. Does nothing when all is there, needs no
# network then, and may run several times at once. Needs root only when something is missing.
set -eu

# program or file that proves it / package
needed='
/usr/bin/cc                          build-essential
/usr/bin/make                        make
/usr/bin/protoc                      protobuf-compiler
/usr/include/google/protobuf/empty.proto  libprotobuf-dev
/usr/bin/systemd-nspawn              systemd-container
/usr/sbin/debootstrap                debootstrap
/usr/share/keyrings/debian-archive-keyring.gpg  debian-archive-keyring
/usr/bin/etcd                        etcd-server
/usr/bin/etcdctl                     etcd-client
/usr/sbin/nft                        nftables
/usr/bin/nsenter                     util-linux
/usr/bin/unshare                     util-linux
/bin/ip                              iproute2
/bin/kill                            procps
/usr/bin/dbus-daemon                 dbus
/usr/bin/openssl                     openssl
/usr/bin/dpkg-shlibdeps              dpkg-dev
/usr/bin/strip                       binutils
'

missing() {
    echo "$needed" | while read -r file package; do
        [ -z "$file" ] || [ -e "$file" ] || echo "$package"
    done | sort -u
}

[ -n "$(missing)" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "scripts/setup.sh: these packages are missing: $(missing | tr '\n' ' ')" >&2
    echo "Install them, or run this script as root." >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "scripts/setup.sh: no apt-get here; install what these Debian packages hold: $(missing | tr '\n' ' ')" >&2
    exit 1
fi

# One at a time: the second finds everything there.
exec 9>/run/fleet-setup.lock
flock 9
packages=$(missing | tr '\n' ' ')
[ -n "$packages" ] || exit 0
echo "installing: $packages" >&2
export DEBIAN_FRONTEND=noninteractive
# Debian's etcd starts a service of its own; labs have networks of their own, so it is in nobody's way.
# Services that a package starts do not inherit the lock.
apt() {
    apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" >&2 9>&-
}
# A fresh machine has no package lists, an old one has lists of versions that the mirror no longer holds.
apt update
# shellcheck disable=SC2086 # one word each
apt install --yes --no-install-recommends $packages
left=$(missing | tr '\n' ' ')
if [ -n "$left" ]; then
    echo "scripts/setup.sh: still missing after installation: $left" >&2
    exit 1
fi
