#!/bin/bash
# Installs what Lading needs on Debian 12: system packages, then .venv with the lading command. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
packages=(
    python3-venv                    # the interpreter's own tool for environments
    containerd crun runc            # shims and runtimes; containerd itself is not started
    docker-registry skopeo umoci    # peers that the tests compare with
    tini                            # the init program of docker run --init
    busybox-static debootstrap redis-server # images for tests and the demo are made from Debian's packages
    qemu-user-static                # builds for other architectures
    rootlesskit slirp4netns uidmap  # daemons of users who are not root
    git openssl xz-utils zstd           # what tests and scripts call by name
    openssh-client dropbear-bin         # builds from git repositories over ssh; the tests' server
    chromium chromium-driver        # the page of `lading desktop` is tested in a browser
    e2fsprogs xfsprogs iproute2 nftables strace attr acl libcap2-bin pigz make curl ca-certificates libarchive-tools procps
)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
    echo "installing: ${missing[*]}"
    # No service of a package may start: Lading uses containerd's shim, not its daemon.
    guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$guard"
        chmod +x "$guard"
        trap 'rm -f "$guard"' EXIT
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
stamp=.venv/.lading-setup
if [ ! -x .venv/bin/lading ] || [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install -q --upgrade pip
    .venv/bin/python -m pip install -q -e . --group dev
    touch "$stamp"
fi

# Newer programs than Debian 12's, for tests alone, in a directory of their own: judges of EROFS images, a shim with the present launch
# protocol, and the docker client with its plugins.
scripts/foreign-root.sh .tools/sid sid containerd docker-buildx docker-cli docker-compose erofs-utils runc

# A program of another architecture, for builds of several platforms.
if [ ! -x .tools/arm64/bin/busybox ]; then
    unpacked=$(mktemp -d)
    (cd "$unpacked" && "$OLDPWD/scripts/foreign-package.sh" arm64 busybox-static >/dev/null && dpkg-deb -x busybox-static_*.deb tree)
    mkdir -p .tools/arm64/bin
    install -m 0755 "$unpacked/tree/bin/busybox" .tools/arm64/bin/busybox
    rm -rf "$unpacked"
fi

# The docker client (not its daemon) is the user's own; where it is missing or too old for `image ls --tree`, Debian's newer one
# comes in as a single program.
client=$(docker --version 2>/dev/null | sed -nE 's/^Docker version ([0-9]+).*/\1/p') || client=  # no client at all
if [ "${client:-0}" -lt 28 ]; then
    if [ -n "$client" ]; then
        echo "the docker client here is version $client; Lading's demo and tests need 28: installing Debian's docker-cli as /usr/local/bin/docker"
    else
        echo "there is no docker client here: installing Debian's docker-cli as /usr/local/bin/docker"
    fi
    install -m 0755 .tools/sid/usr/bin/docker /usr/local/bin/docker
fi

# Networks are made by netavark 1.10 or newer. Where the distribution has an older one, that of Debian 13 comes in, into a directory
# of Lading's own together with the C library that it was built for.
place=/usr/local/lib/lading
recent() { "$1" --version 2>/dev/null | grep -Eq '^netavark (1\.[1-9][0-9]|[2-9])'; }
if ! recent "$place/netavark" && ! recent /usr/lib/podman/netavark; then
    candidate=$(apt-cache policy netavark 2>/dev/null | sed -nE 's/^ *Candidate: ([0-9.]+).*/\1/p')
    if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge 1.10; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends netavark aardvark-dns
    else
        echo "installing Debian 13's netavark and aardvark-dns below $place"
        unpacked=$(mktemp -d) architecture=$(dpkg --print-architecture)
        for package in netavark aardvark-dns libc6 libgcc-s1; do
            (cd "$unpacked" && SUITE=trixie "$root/scripts/foreign-package.sh" "$architecture" "$package" >/dev/null &&
                dpkg-deb -x "$package"_*.deb tree)
        done
        libraries=$(dirname "$(find "$unpacked/tree" -name libc.so.6)") # usr/lib/x86_64-linux-gnu …
        mkdir -p "$place/netavark.d"
        install -m 0755 "$unpacked"/tree/usr/lib/podman/{netavark,aardvark-dns} "$place/netavark.d"
        for library in "$libraries"/{ld-linux*.so.*,libc.so.6,libm.so.6,libgcc_s.so.1}; do
            install -m 0755 "$library" "$place/netavark.d"
        done
        for program in netavark aardvark-dns; do
            printf '#!/bin/sh\nd=%s\nexec "$d"/ld-linux*.so.* --library-path "$d" "$d/%s" "$@"\n' "$place/netavark.d" "$program" >"$place/$program"
            chmod 0755 "$place/$program"
        done
        rm -rf "$unpacked"
    fi
fi
