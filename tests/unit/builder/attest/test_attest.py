"""Provenance in both shapes, and the list of what is installed."""

import json
import sqlite3
import struct
from pathlib import Path

import pytest

from lading.builder.attest import provenance, sbom
from lading.builder.attest.captured import capture
from lading.builder.attest.packages import scan
from lading.builder.attest.provenance import V02, V1, Subject, Wish
from lading.builder.results import Layer
from lading.errors import InvalidArgumentError
from lading.formats.llb import make, ops
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest

DIGEST = Digest.of(b"image")


def graph():
    base = make.source(
        ops.SourceOp(identifier=f"docker-image://docker.io/library/busybox:1@{DIGEST}"), make.Style()
    )
    context = make.source(ops.SourceOp(identifier="local://context"), make.Style())
    copied = make.change(base, [(ops.Copy(src="/a", dest="/b", timestamp=7), context)], make.Style())
    mounts = (
        ops.Mount(
            dest="/run/secrets/tok",
            type=ops.MountType.SECRET,
            secret=ops.SecretOptions(id="tok", optional=True),
        ),
        ops.Mount(dest="/agent", type=ops.MountType.SSH, ssh=ops.SecretOptions(id="default")),
    )
    op = ops.ExecOp(meta=ops.Meta(args=("true",), cwd="/"), mounts=mounts)
    root = make.MountWish(mount=ops.Mount(dest="/"), source=copied, keep=True)
    _, outputs = make.execute(op, [root], make.Style())
    return make.definition(outputs["/"])


def subject(**options: str) -> Subject:
    return Subject(
        ref="one",
        frontend="dockerfile.v0",
        options={"filename": "Dockerfile", "platform": "linux/amd64", "attest:sbom": "x", **options},
        captured=capture(graph()),
        started=10**18,
        native="linux/amd64",
        locals=("context", "dockerfile"),
    )


def predicate(wish: Wish, layers: list[Layer] | None = None, **options: str) -> dict:
    return json.loads(provenance.predicate(subject(**options), wish, layers or [], finished=2 * 10**18))


def test_minimal_provenance_tells_sources_and_keeps_arguments_to_itself() -> None:
    made = predicate(Wish(full=False), **{"build-arg:TOKEN": "x", "label:a": "b", "target": "t"})
    assert made["invocation"]["parameters"] == {
        "frontend": "dockerfile.v0",
        "args": {"target": "t"},
        "locals": [{"name": "context"}, {"name": "dockerfile"}],
    }
    assert made["materials"] == [{"uri": "pkg:docker/busybox@1", "digest": {"sha256": DIGEST.hex}}]
    assert made["metadata"]["completeness"] == {"parameters": False, "environment": True, "materials": False}
    assert "buildConfig" not in made
    assert "source" not in made["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]


def test_full_provenance_has_the_graph_as_buildkit_writes_it() -> None:
    made = predicate(Wish(), **{"build-arg:A": "x", "vcs:revision": "abc"})
    assert made["invocation"]["parameters"]["args"]["build-arg:A"] == "x"
    assert made["invocation"]["parameters"]["secrets"] == [{"id": "tok", "optional": True}]
    assert made["invocation"]["parameters"]["ssh"] == [{"id": "default"}]
    steps = made["buildConfig"]["llbDefinition"]
    copy = next(s for s in steps if s["op"]["Op"] and "file" in s["op"]["Op"])
    action = copy["op"]["Op"]["file"]["actions"][0]
    assert action["Action"]["copy"]["timestamp"] == 7
    assert (action["input"], action["secondaryInput"], action["output"]) == (0, 1, 0)
    assert steps[-1]["op"] == {"Op": {}}
    assert steps[-1]["inputs"] == [f"{steps[-2]['id']}:0"]
    assert set(made["buildConfig"]["digestMapping"].values()) == {step["id"] for step in steps[:-1]}
    assert made["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["vcs"] == {"revision": "abc"}


def test_layers_stand_at_the_steps_that_made_them() -> None:
    vertex = next(reversed(capture(graph()).steps))
    described = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=DIGEST, size=3)
    made = predicate(Wish(), [Layer(descriptor=described, diff_id=DiffID(DIGEST), vertex=vertex)])
    layers = made["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["layers"]
    assert list(layers.values()) == [
        [[{"mediaType": mediatypes.OCI_LAYER_GZIP, "digest": DIGEST, "size": 3}]]
    ]


def test_version_one_says_the_same_in_another_shape() -> None:
    made = predicate(Wish(version=V1, builder="https://me"))
    assert made["buildDefinition"]["externalParameters"]["configSource"] == {"path": "Dockerfile"}
    assert made["buildDefinition"]["resolvedDependencies"][0]["uri"] == "pkg:docker/busybox@1"
    assert made["runDetails"]["builder"] == {"id": "https://me"}
    assert made["runDetails"]["metadata"]["invocationId"] == "one"


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("mode=min,inline-only=true", Wish(full=False, inline_only=True)),
        ("type=provenance", Wish()),
        (
            "mode=max,version=v1,builder-id=x,reproducible=true",
            Wish(version=V1, builder="x", reproducible=True),
        ),
        ("disabled=true", None),
        ("", Wish(version=V02)),
    ],
)
def test_what_clients_ask_for(text: str, wish: Wish | None) -> None:
    assert provenance.parse(text) == wish


@pytest.mark.parametrize("text", ["mode=medium", "version=v9", "colour=red"])
def test_what_nobody_offers(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        provenance.parse(text)


def rpm_header(**fields: str) -> bytes:
    tags = {"name": 1000, "version": 1001, "release": 1002, "arch": 1022}
    index, data = b"", b""
    for key, value in fields.items():
        index += struct.pack(">IIiI", tags[key], 6, len(data), 1)
        data += value.encode() + b"\0"
    return struct.pack(">II", len(fields), len(data)) + index + data


def test_every_database_is_read(tmp_path: Path) -> None:
    def write(path: str, text: str | bytes) -> None:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else text.encode())

    write("etc/os-release", 'NAME="X"\nID=debian\n')
    write(
        "var/lib/dpkg/status",
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2:2.36+b1\nDescription: x\n more\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
    )
    write("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\nArchitecture: amd64\n")
    write("lib/apk/db/installed", "C:Q1\nP:musl\nV:1.2-r0\nA:x86_64\nL:MIT\n\nP:broken\n")
    write("usr/lib/python3/site-packages/Foo_Bar-1.dist-info/METADATA", "Name: Foo_Bar\nVersion: 1\n\nbody")
    write("app/node_modules/@scope/name/package.json", '{"name":"@scope/name","version":"3","license":"MIT"}')
    write("app/node_modules/bad/package.json", "{")
    write("app/package.json", '{"name":"app","version":"0"}')
    database = sqlite3.connect(tmp_path / "rpm.db")
    database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    database.execute(
        "INSERT INTO Packages VALUES (1, ?), (2, ?)",
        (rpm_header(name="bash", version="5", release="1.fc40", arch="x86_64"), b"\0\0\0\xff"),
    )
    database.commit()
    database.close()
    write("var/lib/rpm/rpmdb.sqlite", (tmp_path / "rpm.db").read_bytes())
    (tmp_path / "loop").symlink_to("/")
    assert [package.purl for package in scan(str(tmp_path))] == [
        "pkg:npm/%40scope/name@3",
        "pkg:pypi/foo-bar@1",
        "pkg:deb/debian/base-files@12?arch=amd64",
        "pkg:rpm/debian/bash@5-1.fc40?arch=x86_64",
        "pkg:deb/debian/libc6@2%3A2.36%2Bb1?arch=amd64",
        "pkg:apk/debian/musl@1.2-r0?arch=x86_64",
    ]


def test_a_view_in_an_rpm_database_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    database = sqlite3.connect(tmp_path / "var/lib/rpm/rpmdb.sqlite")
    endless = "WITH RECURSIVE n(hnum, blob) AS (SELECT 1, x'00' UNION ALL SELECT hnum + 1, x'00' FROM n) SELECT * FROM n"
    database.execute(f"CREATE VIEW Packages AS {endless}")
    database.commit()
    database.close()
    assert scan(str(tmp_path)) == []


def test_a_database_outside_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("Package: secret\nVersion: 1\n")
    root = tmp_path / "root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to("../../../../outside")
    assert scan(str(root)) == []


def test_the_document_is_spdx_and_repeatable(tmp_path: Path) -> None:
    (tmp_path / "lib/apk/db").mkdir(parents=True)
    (tmp_path / "lib/apk/db/installed").write_text(
        "P:a b\nV:1\nL:MIT AND GPL-2.0-only\n\nP:c\nV:2\nL:custom, really\n"
    )
    packages = scan(str(tmp_path))
    made = sbom.document(packages, created=10**18)
    assert made == sbom.document(packages, created=10**18)
    assert made["spdxVersion"] == "SPDX-2.3"
    assert [each["licenseDeclared"] for each in made["packages"]] == [
        "MIT AND GPL-2.0-only",
        "NOASSERTION",
        "NOASSERTION",
    ]
    names = {each["SPDXID"] for each in made["packages"]}
    assert {each["relatedSpdxElement"] for each in made["relationships"]} == names


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"attest:sbom": ""}, True),
        ({"attest:sbom": "type=sbom"}, True),
        ({"attest:sbom": "disabled=true"}, False),
        ({"attest:sbom": "generator=docker/scanner"}, False),
    ],
)
def test_who_scans(options: dict[str, str], expected: bool) -> None:
    assert sbom.wanted(options) is expected
