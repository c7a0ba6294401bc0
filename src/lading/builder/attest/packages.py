"""What is installed in a tree, by the databases of its package managers. Everything here blocks, and belongs on a data thread.

Databases are found inside the tree by the kernel (``openat2``), read up to a size, and parsed leniently: a tree is hostile, and a
record that makes no sense is left out.
"""

import email.parser
import json
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import apsw

from lading.kit import linux
from lading.kit.sqlite import Connection

_READ_LIMIT: Final = 64 << 20
_FILES: Final = 2_000_000
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RPM_TAGS: Final = {
    1000: "name",
    1001: "version",
    1002: "release",
    1014: "license",
    1022: "arch",
    1003: "epoch",
}
_RPM_TABLE: Final = (
    "SELECT 1 FROM sqlite_schema WHERE name = 'Packages' AND type = 'table' AND sql LIKE 'CREATE TABLE %'"
)
_RPM_INT32: Final = 4
_RPM_TEXT: Final = (6, 8, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Something that is installed. ``source`` is the file that says so."""

    name: str
    version: str
    purl: str
    source: str
    license: str = ""


def scan(root: str) -> list[Package]:
    """Everything that is installed below ``root``, in order of name."""
    fd = os.open(root, _DIRECTORY)
    try:
        distribution = _distribution(_read(fd, "etc/os-release") or _read(fd, "usr/lib/os-release") or b"")
        found = [*_dpkg(fd, distribution), *_apk(fd, distribution), *_rpm(fd, distribution)]
        found += _languages(fd)
    finally:
        os.close(fd)
    unique = {(each.purl, each.source): each for each in found}
    return sorted(unique.values(), key=lambda each: (each.name, each.version, each.source))


def _read(root: int, path: str) -> bytes | None:
    """A regular file inside the root; ``None`` if there is none or it is too large."""
    try:
        fd = linux.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, linux.RESOLVE_IN_ROOT)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _READ_LIMIT:
            return None
        parts: list[bytes] = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _list(root: int, path: str) -> list[str]:
    try:
        fd = linux.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, linux.RESOLVE_IN_ROOT)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _distribution(release: bytes) -> str:
    for line in release.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key == "ID":
            return value.strip("\"' ").lower()
    return ""


def _stanzas(data: bytes, separator: str = ":") -> Iterator[dict[str, str]]:
    """Records of lines ``key: value``, separated by empty lines."""
    record: dict[str, str] = {}
    for line in [*data.decode("utf-8", "replace").split("\n"), ""]:
        if not line.strip():
            if record:
                yield record
            record = {}
        elif not line[0].isspace():
            key, _, value = line.partition(separator)
            record.setdefault(key, value.strip())


def _dpkg(root: int, distribution: str) -> Iterator[Package]:
    places = [
        "var/lib/dpkg/status",
        *(f"var/lib/dpkg/status.d/{each}" for each in _list(root, "var/lib/dpkg/status.d")),
    ]
    for place in places:
        for record in _stanzas(_read(root, place) or b""):
            installed = record.get("Status", "install ok installed").endswith(" installed")
            name, version = record.get("Package", ""), record.get("Version", "")
            if installed and name and version:
                kind = f"deb/{distribution or 'debian'}"
                yield _package(name, version, kind, place, arch=record.get("Architecture", ""))


def _apk(root: int, distribution: str) -> Iterator[Package]:
    for place in ("lib/apk/db/installed", "usr/lib/apk/db/installed"):
        for record in _stanzas(_read(root, place) or b""):
            if record.get("P") and record.get("V"):
                kind = f"apk/{distribution or 'alpine'}"
                yield _package(
                    record["P"],
                    record["V"],
                    kind,
                    place,
                    arch=record.get("A", ""),
                    license=record.get("L", ""),
                )


def _rpm(root: int, distribution: str) -> Iterator[Package]:
    for place in ("usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite"):
        data = _read(root, place)
        if not data:
            continue
        for header in _rpm_headers(data):
            fields = _rpm_fields(header)
            name, version = fields.get("name", ""), fields.get("version", "")
            if not name or not version:
                continue
            full = f"{version}-{fields['release']}" if "release" in fields else version
            epoch = {"epoch": fields["epoch"]} if "epoch" in fields else {}
            kind = f"rpm/{distribution or 'rpm'}"
            yield _package(
                name,
                full,
                kind,
                place,
                arch=fields.get("arch", ""),
                license=fields.get("license", ""),
                **epoch,
            )


def _rpm_headers(database: bytes) -> list[bytes]:
    """The headers in an SQLite database of rpm, copied into memory. Only a table is read: a view could run for ever."""
    raw = apsw.Connection(":memory:")
    connection = cast("Connection", raw)
    try:
        raw.deserialize("main", database)  # pyright: ignore[reportUnknownMemberType]
        kind = connection.execute(_RPM_TABLE).fetchone()
        if kind is None:
            return []
        rows = connection.execute("SELECT blob FROM Packages ORDER BY hnum").fetchall()
        return [row[0] for row in rows if isinstance(row[0], bytes)]
    except apsw.Error:
        return []
    finally:
        connection.close()


def _rpm_fields(header: bytes) -> dict[str, str]:
    """The fields of an rpm header (rpm, doc/manual/hregions): an index of tag, type, offset, count, and then the data."""
    if len(header) < 8:
        return {}
    count, size = struct.unpack_from(">II", header)
    start = 8 + 16 * count
    if start + size > len(header):
        return {}
    data = header[start : start + size]
    fields: dict[str, str] = {}
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", header, 8 + 16 * number)
        if tag not in _RPM_TAGS or not 0 <= offset < size:
            continue
        if kind in _RPM_TEXT:
            fields[_RPM_TAGS[tag]] = data[offset:].split(b"\0", 1)[0].decode("utf-8", "replace")
        elif kind == _RPM_INT32 and offset + 4 <= size:
            fields[_RPM_TAGS[tag]] = str(struct.unpack_from(">I", data, offset)[0])
    return fields


def _languages(root: int) -> Iterator[Package]:
    """Packages of Python and of Node, which may be anywhere."""
    seen = 0
    for directory, names, files, _ in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        names[:] = [name for name in names if directory != "." or name not in ("proc", "sys", "dev")]
        seen += len(files)
        if seen > _FILES:
            return
        path = directory.removeprefix(".").lstrip("/")
        if path.endswith((".dist-info", ".egg-info")):
            for file in ("METADATA", "PKG-INFO"):
                if file in files and (package := _python(root, f"{path}/{file}")):
                    yield package
        elif (
            "package.json" in files and _is_module(path) and (package := _node(root, f"{path}/package.json"))
        ):
            yield package


def _is_module(path: str) -> bool:
    parts = path.split("/")
    return parts[-2:-1] == ["node_modules"] or (
        parts[-3:-2] == ["node_modules"] and parts[-2].startswith("@")
    )


def _python(root: int, path: str) -> Package | None:
    message = email.parser.BytesHeaderParser().parsebytes(_read(root, path) or b"")
    name, version = message.get("Name"), message.get("Version")
    if not name or not version:
        return None
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return Package(
        name=name, version=version, purl=purl, source=path, license=str(message.get("License") or "")
    )


def _node(root: int, path: str) -> Package | None:
    try:
        document: object = json.loads(_read(root, path) or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    fields = cast("dict[str, Any]", document)
    name, version, terms = fields.get("name"), fields.get("version"), fields.get("license")
    if not isinstance(name, str) or not isinstance(version, str):
        return None
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    return Package(
        name=name, version=version, purl=purl, source=path, license=terms if isinstance(terms, str) else ""
    )


def _package(
    name: str, version: str, kind: str, source: str, *, license: str = "", **qualifiers: str
) -> Package:
    query = "&".join(f"{key}={value}" for key, value in sorted(qualifiers.items()) if value)
    quoted = version.replace("+", "%2B").replace(":", "%3A")
    purl = f"pkg:{kind}/{name.replace('+', '%2B')}@{quoted}" + (f"?{query}" if query else "")
    return Package(name=name, version=version, purl=purl, source=source, license=license)
