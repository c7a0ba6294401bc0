#!/bin/bash
# Shows Lading at work on this machine, in a scratch directory, and cleans up.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
. scripts/lib.sh

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
    printf '\033[36m$'
    printf ' %q' "$@"
    printf '\033[0m\n'
    "$@"
}

say "1. A registry on loopback, and the daemon on a private socket"
start_registry
start_daemon
show docker version --format '{{.Server.Platform.Name}}, API {{.Server.APIVersion}}'

say "2. An image for amd64 and arm64, made from Debian's busybox-static packages"
packages=()
for architecture in amd64 arm64; do
    packages+=("$(cd "$scratch" && "$root/scripts/foreign-package.sh" "$architecture" busybox-static):$architecture")
done
.venv/bin/python scripts/debian_image.py "$scratch/layout" demo "${packages[@]}"
skopeo copy -q --all --dest-tls-verify=false "oci:$scratch/layout:demo" "docker://$registry/demo/busybox:latest"

say "3. Pull it for this machine, then the other platform beside it"
show docker pull "$registry/demo/busybox:latest"
show docker pull -q --platform linux/arm64 "$registry/demo/busybox:latest"
show docker image ls --tree

say "4. Run it"
show docker run --rm --network host "$registry/demo/busybox:latest" sh -c 'cat /etc/motd; uname -sm; ls /'

say "5. Push it to another repository: the digest stays the same"
show docker tag "$registry/demo/busybox:latest" "$registry/demo/copy:latest"
show docker push "$registry/demo/copy:latest"
before=$(skopeo inspect --tls-verify=false --raw "docker://$registry/demo/busybox:latest" | sha256sum)
after=$(skopeo inspect --tls-verify=false --raw "docker://$registry/demo/copy:latest" | sha256sum)
[ "$before" = "$after" ] && echo "the same index in both repositories: sha256:${after%% *}"

say "6. Build for two platforms at once, with attestations"
mkdir -p "$DOCKER_CONFIG/cli-plugins" "$scratch/context"
ln -s "$root/.tools/sid/usr/libexec/docker/cli-plugins/docker-buildx" "$DOCKER_CONFIG/cli-plugins/docker-buildx"
printf 'FROM %s/demo/busybox:latest\nRUN /bin/busybox uname -m > /machine\nCMD ["/bin/busybox", "cat", "/machine"]\n' "$registry" >"$scratch/context/Dockerfile"
built=$registry/demo/built:latest
show docker build -q --platform=linux/amd64,linux/arm64 -t "$built" "$scratch/context"
show docker image ls --tree "$built"
show docker run --rm --platform linux/arm64 "$built"
show docker push -q "$built"
show docker buildx imagetools inspect --format '{{json (index .Provenance "linux/arm64").SLSA.buildType}}' "$built"

say "7. What docker has no word for"
digest=$(docker image inspect --format '{{.Id}}' "$registry/demo/busybox:latest")
show .venv/bin/lading why "$digest"
show .venv/bin/lading fsck

cat <<END

That was the unmodified docker client, driving Lading. To go on by hand:

    make daemon                                   # leaves a daemon running and says where
    export DOCKER_HOST=unix:///run/lading/lading.sock
    docker image ls --tree
    .venv/bin/lading --help
END
