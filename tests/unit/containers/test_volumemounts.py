"""Volumes as clients ask for them, and how their wishes combine."""

from typing import Any

import pytest

from lading.containers import request, volumemounts
from lading.containers.binds import Bind
from lading.containers.volumemounts import Plan, VolumeMount
from lading.errors import LadingError, NotFoundError


def mounts_of(name: str):
    if name != "other":
        raise NotFoundError(name)
    return (
        [
            VolumeMount(name="theirs", target="/data", read_only=True),
            VolumeMount(name="more", target="/more"),
        ],
        [Bind(source="/srv", target="/srv")],
    )


def plan(image: dict[str, Any] | None = None, *, volumes: Any = None, **host: Any) -> Plan:
    asked = request.parse({"Image": "box", "Volumes": volumes, "HostConfig": host})
    return volumemounts.plan(asked.config, asked.host, image, mounts_of)


def targets(made: Plan) -> dict[str, str]:
    return {each.mount.target: each.mount.name for each in made.asked}


def test_named_and_anonymous_ones():
    made = plan(Binds=["data:/data:ro", "/only", "/host:/host", "x-y:/z/../y:nocopy"], volumes={"/extra": {}})
    assert targets(made) == {"/data": "data", "/only": "", "/y": "x-y", "/extra": ""}
    data, _, other, _ = (each.mount for each in made.asked)
    assert (data.read_only, data.copy, other.copy) == (True, True, False)


def test_what_the_image_declares_yields_to_every_mount():
    image = {"/data": {}, "/bound": {}, "/ram": {}, "/free": {}}
    made = plan(image, Binds=["data:/data", "/host:/bound"], Tmpfs={"/ram": ""})
    assert targets(made) == {"/data": "data", "/free": ""}


def test_mounts_carry_what_a_new_volume_is_made_of():
    options = {
        "NoCopy": True,
        "Labels": {"a": "b"},
        "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}},
    }
    [asked] = plan(
        Mounts=[
            {"Type": "volume", "Source": "v1", "Target": "/v", "ReadOnly": True, "VolumeOptions": options}
        ]
    ).asked
    assert asked.mount == VolumeMount(name="v1", target="/v", read_only=True, copy=False)
    assert (asked.labels, asked.options["type"]) == ({"a": "b"}, "tmpfs")
    [part] = plan(
        Mounts=[{"Type": "volume", "Source": "v1", "Target": "/v", "VolumeOptions": {"Subpath": "a/b"}}]
    ).asked
    assert (part.mount.subpath, part.mount.copy) == ("a/b", False)


def test_volumes_of_another_container():
    made = plan({"/data": {}}, VolumesFrom=["other"])
    assert made.asked == []
    assert [(each.name, each.target, each.read_only) for each in made.borrowed] == [
        ("theirs", "/data", True),
        ("more", "/more", False),
    ]
    assert made.binds == [Bind(source="/srv", target="/srv")]
    made = plan(VolumesFrom=["other:ro"], Binds=["mine:/data"])
    assert targets(made) == {"/data": "mine"}
    assert [(each.name, each.read_only) for each in made.borrowed] == [("more", True)]
    assert made.binds[0].read_only


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["data:relative"]},
        {"Binds": ["data:/"]},
        {"Binds": [":/data"]},
        {"Binds": ["data:/data:shared"]},
        {"Binds": ["one:/data", "two:/data"]},
        {"Binds": ["one:/data", "/host:/data"]},
        {"Binds": ["one:/data"], "Tmpfs": {"/data": ""}},
        {"VolumesFrom": ["nobody"]},
        {"VolumesFrom": ["other:exec"]},
        {"VolumesFrom": [":ro"]},
        {"VolumeDriver": "elsewhere"},
        {"Mounts": [{"Type": "volume", "Source": "v1", "Target": "v"}]},
        {
            "Mounts": [
                {"Type": "volume", "Source": "v1", "Target": "/v", "VolumeOptions": {"Subpath": "../x"}}
            ]
        },
        {"Mounts": [{"Type": "volume", "Source": "v1", "Target": "/v", "VolumeOptions": {"Subpath": "/x"}}]},
        {"Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": {"Subpath": "x"}}]},
    ],
)
def test_what_is_refused(host: dict[str, Any]):
    with pytest.raises(LadingError):
        plan(**host)


def test_a_volume_has_an_absolute_target():
    with pytest.raises(LadingError):
        plan(volumes={"relative": {}})
