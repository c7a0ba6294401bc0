"""RUN --mount and --device."""

import pytest

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.mounts import (
    Device,
    RunMount,
    check_mount,
    parse_device,
    parse_mount,
    stage_of,
)


def mount(text: str) -> RunMount:
    return parse_mount(text, lambda word: word.replace("$x", "value"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=/a", RunMount(target="/a")),
        ("type=BIND,src=a,dst=/b,rw", RunMount(source="a", target="/b", readonly=False)),
        ("destination=/b,readwrite=false,from=st", RunMount(target="/b", origin="st")),
        ("target=/b,ro=false", RunMount(target="/b", readonly=False)),
        ("target=/b,readonly", RunMount(target="/b")),
        (
            "type=cache,id=$x,target=/c,sharing=Locked,mode=0755,uid=1,gid=2",
            RunMount(
                type="cache",
                id="value",
                target="/c",
                sharing="locked",
                mode=0o755,
                uid=1,
                gid=2,
                readonly=False,
            ),
        ),
        ("type=tmpfs,target=/t,size=1.5k", RunMount(type="tmpfs", target="/t", size=1536, readonly=False)),
        ("type=secret,id=s,required,env=E", RunMount(type="secret", id="s", required=True, env="E")),
        ("type=ssh,required=false", RunMount(type="ssh")),
        ('"target=/a,b"', RunMount(target="/a,b")),
    ],
)
def test_mounts(text: str, expected: RunMount) -> None:
    assert mount(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=bnd", 'unsupported mount type "bnd" (did you mean bind?)'),
        ("trget=/x", "unexpected key 'trget' in 'trget=/x' (did you mean target?)"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("bogus", "invalid field 'bogus' must be a key=value pair"),
        ("ro=x", "invalid value for ro: x"),
        ("required", "unexpected key 'required' for mount type 'bind'"),
        ("size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,size=x", "invalid value for size: x"),
        ("type=cache,sharing=x", 'unsupported sharing value "x"'),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=bind,mode=1", 'mode not allowed for "bind" type mounts'),
        ("type=tmpfs,gid=1", 'gid not allowed for "tmpfs" type mounts'),
        ("type=secret,id=x,from=y", "secret mount should not have a from"),
        ("type=secret,id=x,sharing=shared", "secret mount should not define sharing"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,src=a,id=b", "both source and id can't be set"),
        ("type=bind,sharing=shared", "invalid cache sharing set for bind mount"),
        ('a"b', "unexpected"),
    ],
)
def test_bad_mounts(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        mount(text)
    if message != "unexpected":
        assert caught.value.message == message


def test_fields_may_be_quoted_but_not_half() -> None:
    with pytest.raises(DockerfileError, match="failed to parse csv mounts"):
        check_mount('"a')
    assert stage_of("") == ""


def test_the_stage_of_a_mount() -> None:
    assert stage_of("type=bind,from=a,FROM=b") == "b"
    assert stage_of("type=bind") == ""
    check_mount("from=a$,target=$x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vendor.com/gpu=one", Device(name="vendor.com/gpu=one")),
        ("name=a,required", Device(name="a", required=True)),
        ("a,required=false", Device(name="a")),
        ("required", Device(required=True)),
    ],
)
def test_devices(text: str, expected: Device) -> None:
    assert parse_device(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b", "invalid field 'b' must be a key=value pair"),
        ("a,name=b", "device name already set to a"),
        ("a,requird=1", "unexpected key 'requird' in 'requird=1' (did you mean required?)"),
        ("a,required=x", "invalid value for required: x"),
    ],
)
def test_bad_devices(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_device(text)
    assert caught.value.message == message
