"""Programs newer than Debian 12's, unpacked by ``make setup``: erofs-utils, containerd's shim, docker with buildx and compose."""

from pathlib import Path

NEWER = Path(__file__).parents[2] / ".tools" / "sid"
"""A directory that one can chroot into."""
ARM64_BUSYBOX = Path(__file__).parents[2] / ".tools" / "arm64" / "bin" / "busybox"
"""Static, for arm64."""
CLI_PLUGINS = NEWER / "usr/libexec/docker/cli-plugins"
"""``docker-buildx`` and ``docker-compose``; both run outside the chroot too."""
