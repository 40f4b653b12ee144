#!/bin/sh
# Makes the Debian packages fleetd and fleetctl with dpkg-deb, from the files that `make install` installs and from
# packaging/debian. `make deb` calls it, and the test of the packages. Needs no root. The same binaries at the same
# commit give the same packages. Prints the paths of the packages.
#
# BIN_DIR   where fleetd and fleetctl lie (target/release)
# OUT_DIR   where the packages go (target/debian)
# REVISION  what follows Cargo's version (1)
# COMPRESS  xz, zstd or none (xz)
# DEBFULLNAME, DEBEMAIL   who stands behind the packages, as for Debian's own tools
set -eu
umask 022
cd "$(dirname "$0")/.."

bin=${BIN_DIR:-target/release}
out=${OUT_DIR:-target/debian}
revision=${REVISION:-1}
compress=${COMPRESS:-xz}
packaging=packaging/debian
maintainer="${DEBFULLNAME:-The fleet authors} <${DEBEMAIL:-fleet@example.org}>"

for tool in dpkg-deb dpkg-shlibdeps strip; do
    if ! command -v "$tool" >/dev/null; then
        echo "scripts/deb.sh: $tool is missing: install Debian's packages dpkg-dev and binutils" >&2
        exit 1
    fi
done
cargo_version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$cargo_version" ] || { echo "scripts/deb.sh: Cargo.toml has no version in [workspace.package]" >&2; exit 1; }
# A pre-release sorts before its release.
version=$(echo "$cargo_version" | sed 's/-/~/')-$revision
architecture=$(dpkg --print-architecture)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
export SOURCE_DATE_EPOCH

mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d "$out/.stage.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The libraries a program needs, as a field of control.
libraries_of() {
    mkdir -p "$work/shlibs/debian"
    printf 'Source: fleet\n\nPackage: fleet\nArchitecture: any\n' >"$work/shlibs/debian/control"
    (cd "$work/shlibs" && dpkg-shlibdeps -O -e"$1") | sed -n 's/^shlibs:Depends=//p'
}

documents() {
    doc=$work/$1/usr/share/doc/$1
    install -D -m 0644 "$packaging/copyright" "$doc/copyright"
    gzip -9n <CHANGELOG.md >"$doc/changelog.gz"
    {
        printf 'fleet (%s) unstable; urgency=medium\n\n  * fleet %s, see changelog.gz.\n\n' "$version" "$cargo_version"
        printf ' -- %s  %s\n' "$maintainer" "$(LC_ALL=C date -uR -d "@$SOURCE_DATE_EPOCH")"
    } | gzip -9n >"$doc/changelog.Debian.gz"
}

build() {
    package=$1
    stage=$work/$package
    DESTDIR=$stage PREFIX=/usr BIN_DIR=$bin PART=$package scripts/install.sh
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$stage/usr/bin/$package"
    documents "$package"
    mkdir "$stage/DEBIAN"
    if [ -d "$stage/etc" ]; then
        (cd "$stage" && find etc -type f -printf '/%p\n' | LC_ALL=C sort) >"$stage/DEBIAN/conffiles"
    fi
    for script in postinst prerm postrm; do
        if [ -f "$packaging/$package.$script" ]; then
            install -m 0755 "$packaging/$package.$script" "$stage/DEBIAN/$script"
        fi
    done
    (cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 md5sum) \
        >"$work/md5sums"
    install -m 0644 "$work/md5sums" "$stage/DEBIAN/md5sums"
    sed -e "s|@VERSION@|$version|" -e "s|@ARCHITECTURE@|$architecture|" -e "s|@MAINTAINER@|$maintainer|" \
        -e "s|@SHLIBS@|$(libraries_of "$stage/usr/bin/$package")|" \
        -e "s|@INSTALLED_SIZE@|$(du -k -s --apparent-size --exclude=DEBIAN "$stage" | cut -f1)|" \
        "$packaging/$package.control" >"$stage/DEBIAN/control"
    chmod 0644 "$stage/DEBIAN/control"
    file=$out/${package}_${version}_$architecture.deb
    dpkg-deb --root-owner-group -Z"$compress" --build "$stage" "$file" >&2
    echo "$file"
}

build fleetd
build fleetctl
