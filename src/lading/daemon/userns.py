"""``userns-remap``: whose subordinate IDs containers get, and whether this machine can give them. All blocking."""

import grp
import pwd
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from lading.containers.remapping import Remapping
from lading.core.idmap import IdMap, stacked
from lading.core.mounts import Mount
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.formats import subid

DEFAULT: Final = "default"
DEFAULT_USER: Final = "dockremap"
"""As Docker's, so that both daemons of a machine give the same IDs."""
_FILES: Final = (Path("/etc/subuid"), Path("/etc/subgid"))
_FILE_LIMIT: Final = 4 * 1024 * 1024
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """A user or a group, by its names in ``/etc/subuid`` or ``/etc/subgid``."""

    name: str
    number: int

    @property
    def names(self) -> tuple[str, str]:
        """How it may stand there."""
        return self.name, str(self.number)


@contextmanager
def open_remapping(option: str, place: Path) -> Generator[Remapping | None]:
    """What ``userns-remap`` asks for, tried with the file system of ``place``; ``None`` if it asks for nothing.

    Raises:
        InvalidArgumentError: There is no such user or group, or its subordinate IDs cannot be used.
        FailedPreconditionError: The machine cannot do it.

    """
    if not option:
        yield None
        return
    made = Remapping(id_map(option))
    try:
        probe(made, place)
        yield made
    finally:
        made.close()


def id_map(option: str, files: Sequence[Path] = _FILES) -> IdMap:
    """The IDs that ``userns-remap`` names. The user ``dockremap`` is made for ``default``.

    Raises as `open_remapping`.
    """
    if option == DEFAULT:
        _ensure_default_user(files)
        option = DEFAULT_USER
    user_part, _, group_part = option.partition(":")
    user = _user(user_part)
    group = _group(group_part or user.name)
    if user.number == 0 or group.number == 0:
        raise InvalidArgumentError("userns-remap: root cannot be remapped with itself")
    uids, gids = (
        stacked(subid.ranges(_read(file), owner.names, str(file)))
        for file, owner in zip(files, (user, group), strict=True)
    )
    return IdMap(uids=uids, gids=gids)


def _read(file: Path) -> list[subid.Entry]:
    try:
        if file.stat().st_size > _FILE_LIMIT:
            raise InvalidArgumentError(f"{file} is longer than {_FILE_LIMIT} bytes")
        return subid.parse(file.read_text("utf-8", "replace"), str(file))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise FailedPreconditionError(f"userns-remap: cannot read {file}: {exc.strerror}") from exc


def _user(text: str) -> Owner:
    try:
        found = pwd.getpwuid(int(text)) if text.isdigit() else pwd.getpwnam(text)
    except (KeyError, OverflowError, ValueError) as exc:
        raise InvalidArgumentError(
            f"userns-remap: there is no user {text[:64]!r}", hint="make it, or use default"
        ) from exc
    return Owner(found.pw_name, found.pw_uid)


def _group(text: str) -> Owner:
    try:
        found = grp.getgrgid(int(text)) if text.isdigit() else grp.getgrnam(text)
    except (KeyError, OverflowError, ValueError) as exc:
        raise InvalidArgumentError(
            f"userns-remap: there is no group {text[:64]!r}", hint="give user:group"
        ) from exc
    return Owner(found.gr_name, found.gr_gid)


def _ensure_default_user(files: Sequence[Path]) -> None:
    """Make the user and its subordinate IDs, what of it there is not."""
    try:
        pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        _call("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false")
        _log.info("user_made", name=DEFAULT_USER)
    entries = [_read(file) for file in files]
    start = subid.free(entries[0], entries[1])
    span = f"{start}-{start + subid.SMALLEST - 1}"
    for option, known in zip(("--add-subuids", "--add-subgids"), entries, strict=True):
        if all(each.owner != DEFAULT_USER for each in known):
            _call("usermod", option, span)


def _call(*words: str) -> None:
    """One of shadow-utils' programs, which lock the files that they change."""
    try:
        done = subprocess.run([*words, DEFAULT_USER], capture_output=True, check=False, text=True)
    except FileNotFoundError as exc:
        raise FailedPreconditionError(
            f"userns-remap=default: {words[0]} is missing",
            hint=f"install it (Debian: passwd), or make the user {DEFAULT_USER} and its subordinate IDs",
        ) from exc
    if done.returncode:
        reason = done.stderr.strip()[:500]
        raise FailedPreconditionError(f"userns-remap=default: {words[0]} failed: {reason}")


def probe(remapping: Remapping, place: Path) -> None:
    """See that layers on the file system of ``place`` can have other owners, by an overlay in which a file is made.

    Raises `FailedPreconditionError`.
    """
    with tempfile.TemporaryDirectory(prefix=".userns-", dir=place) as directory:
        top = Path(directory)
        for name in ("lower", "layer/upper", "layer/work", "shown"):
            (top / name).mkdir(parents=True)
        options = (
            f"lowerdir={top}/lower",
            f"upperdir={top}/layer/upper",
            f"workdir={top}/layer/work",
        )
        try:
            remapping.probe([Mount(type="overlay", source="overlay", options=options)], top / "shown")
        except FailedPreconditionError as exc:
            raise FailedPreconditionError(
                f"userns-remap: this machine cannot show layers with other owners: {exc.message}",
                hint="Linux 5.19 is needed, and a --data-root on ext4, xfs, btrfs or another file system with idmapped mounts",
            ) from exc
        if (top / "layer/upper/file").stat().st_uid != 0:
            raise FailedPreconditionError(
                "userns-remap: the kernel does not map the owners of new files back"
            )
