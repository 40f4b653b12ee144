#!/bin/sh
# Puts what `make build` has built, and everything of fleetd/dist, below DESTDIR: `make install` calls it, and
# scripts/deb.sh to stage its packages. Restarts nothing and enables nothing.
#
# DESTDIR  a directory to install into instead of / (empty)
# PREFIX   /usr
# BIN_DIR  where fleetd, fleetctl and fleet-man lie (target/release); the latter two say what manual pages and
#          completions are
# PART     fleetd, fleetctl or all (all)
set -eu
umask 022
cd "$(dirname "$0")/.."

destdir=${DESTDIR:-}
prefix=${PREFIX:-/usr}
bin=${BIN_DIR:-target/release}
part=${PART:-all}
dist=fleetd/dist

program() {
    if [ ! -x "$bin/$1" ]; then
        echo "scripts/install.sh: there is no $bin/$1: make build makes it, or name its directory in BIN_DIR" >&2
        exit 1
    fi
    install -D -m 0755 "$bin/$1" "$destdir$prefix/bin/$1"
}

# The pages of a section whose names begin so.
manual() {
    for page in "$pages/$1"*."$2"; do
        name=$(basename "$page")
        install -D -m 0644 "$page" "$destdir$prefix/share/man/man$2/$name"
        gzip -9nf "$destdir$prefix/share/man/man$2/$name"
    done
}

# What a shell loads, at the place where it looks.
completion() {
    file=$destdir$prefix/share/$2
    install -d -m 0755 "$(dirname "$file")"
    FLEETCTL_COMPLETE=$1 "$bin/fleetctl" >"$file"
    chmod 0644 "$file"
}

if [ ! -x "$bin/fleet-man" ]; then
    echo "scripts/install.sh: there is no $bin/fleet-man: make build makes it, or name its directory in BIN_DIR" >&2
    exit 1
fi
pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
"$bin/fleet-man" "$pages"
if [ "$part" != fleetd ]; then
    program fleetctl
    manual fleetctl 1
    completion bash bash-completion/completions/fleetctl
    completion zsh zsh/vendor-completions/_fleetctl
    completion fish fish/vendor_completions.d/fleetctl.fish
fi
if [ "$part" = fleetctl ]; then
    exit 0
fi
program fleetd
manual fleetd 8
(cd "$dist/usr" && find . -type f) | while read -r file; do
    install -D -m 0644 "$dist/usr/$file" "$destdir$prefix/$file"
done
if [ "$prefix" != /usr ]; then
    sed -i "s|^ExecStart=/usr/bin/|ExecStart=$prefix/bin/|" "$destdir$prefix/lib/systemd/system/fleetd.service"
fi
install -d -m 0755 "$destdir/etc/fleet/fleetd.d"
# One that somebody has written is kept: every key in ours is a comment.
if [ ! -e "$destdir/etc/fleet/fleetd.toml" ]; then
    install -m 0644 "$dist/etc/fleet/fleetd.toml" "$destdir/etc/fleet/fleetd.toml"
fi
if [ -z "$destdir" ]; then
    echo "Now, as root: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload &&" \
        "systemctl enable --now fleetd.socket fleetd.service" >&2
fi
