#!/bin/bash
# Installs what Lading needs on Debian 12: system packages, then .venv with the lading command. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
packages=(
    python3-venv                    # the interpreter's own tool for environments
    containerd crun runc            # shims and runtimes; containerd itself is not started
    docker-registry skopeo umoci    # peers that the tests compare with
    busybox-static debootstrap      # images for tests and the demo are made from Debian's packages
    git openssl xz-utils zstd           # what tests and scripts call by name
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

# The docker client (not its daemon) is the user's own; where it is missing or too old for `image ls --tree`, Debian's newer one
# comes in as a single program.
client=$(docker --version 2>/dev/null | sed -nE 's/^Docker version ([0-9]+).*/\1/p') || client=  # no client at all
if [ "${client:-0}" -lt 28 ]; then
    if [ -n "$client" ]; then
        echo "the docker client here is version $client; Lading's demo and tests need 28: installing Debian's docker-cli as /usr/local/bin/docker"
    else
        echo "there is no docker client here: installing Debian's docker-cli as /usr/local/bin/docker"
    fi
    unpacked=$(mktemp -d)
    (cd "$unpacked" && SUITE=sid "$root/scripts/foreign-package.sh" "$(dpkg --print-architecture)" docker-cli >/dev/null && dpkg-deb -x docker-cli_*.deb tree)
    install -m 0755 "$unpacked/tree/usr/bin/docker" /usr/local/bin/docker
    rm -rf "$unpacked"
fi
