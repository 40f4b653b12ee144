#!/bin/sh
# Prints the path of an etcd 3.5, which tests run beside the host's 3.4. Unpacks Debian trixie's package into a directory
# of its own the first time (11 MB from the mirror; nothing is installed); needs no network afterwards. May run several
# times at once.
set -eu

if [ -n "${FLEET_ETCD_3_5:-}" ]; then
    echo "$FLEET_ETCD_3_5"
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    cache=${FLEET_LAB_CACHE:-/var/cache/fleet-lab}
else
    cache=${FLEET_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fleet-lab}
fi
mirror=${FLEET_LAB_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
tree=$cache/etcd-3.5
etcd=$tree/usr/bin/etcd

if [ ! -x "$etcd" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/.etcd-3.5.lock"
    flock 9
    if [ ! -x "$etcd" ]; then
        echo "unpacking trixie's etcd-server into $tree (once)" >&2
        work=$cache/.etcd-3.5.new
        rm -rf "$work" "$tree"
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        echo "deb [signed-by=$keyring] $mirror trixie main" >"$work/sources.list"
        # Lists of its own: the host's belong to another release.
        apt() {
            apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" \
                -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
                -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" "$@" >&2 9>&-
        }
        apt update
        (cd "$work" && apt download etcd-server)
        dpkg-deb -x "$work"/etcd-server_*.deb "$work/root"
        mv "$work/root" "$tree"
        rm -rf "$work"
    fi
fi
case $("$etcd" --version) in
"etcd Version: 3.5."*) echo "$etcd" ;;
*)
    echo "scripts/etcd-3.5.sh: $etcd is no etcd 3.5 that runs on this host; remove $tree, or name one in FLEET_ETCD_3_5" >&2
    exit 1
    ;;
esac
