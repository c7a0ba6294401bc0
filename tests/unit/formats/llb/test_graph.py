"""Graphs: made, marshalled and read again; what a hostile client may send is refused."""

from dataclasses import replace
from typing import Any

import pytest

from lading.errors import InvalidArgumentError, LadingError, ResourceExhaustedError, UnsupportedError
from lading.formats.llb import graph, make, ops
from lading.formats.llb._pb import ops_pb2 as pb
from lading.formats.llb.decode import DecodedOp, decode_definition
from lading.formats.llb.definition import Definition
from lading.formats.llb.encode import encode_definition, encode_op, encode_terminal
from lading.formats.llb.metadata import (
    Location,
    Metadata,
    ProgressGroup,
    SourceFile,
    SourceRange,
    decode_locations,
    decode_metadata,
    encode_metadata,
)
from lading.formats.llb.shown import op_json
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

AMD64 = Platform(os="linux", architecture="amd64", os_version="1", os_features=("f",))
STYLE = make.Style(platform=AMD64)
NOWHERE = Digest("sha256:" + "0" * 64)


def image(name: str = "busybox", style: make.Style = STYLE) -> make.Edge:
    return make.source(ops.SourceOp(identifier=f"docker-image://{name}", attrs={"b": "2", "a": "1"}), style)


def run(
    base: make.Edge, *mounts: make.MountWish, style: make.Style = STYLE, **fields: Any
) -> dict[str, make.Edge]:
    op = ops.ExecOp(meta=ops.Meta(args=("/bin/sh", "-c", "x"), cwd="/"), mounts=(), **fields)
    root = make.MountWish(mount=ops.Mount(dest="/"), source=base, keep=True)
    return make.execute(op, [*mounts, root], style)[1]


EVERY_OP: dict[str, ops.Op] = {
    "source": ops.SourceOp(identifier="local://context", attrs={"local.session": "x"}),
    "exec": ops.ExecOp(
        meta=ops.Meta(
            args=("a", ""),
            env=("K=v",),
            cwd="/w",
            user="u:g",
            proxy_env=ops.ProxyEnv(
                http_proxy="1", https_proxy="2", ftp_proxy="3", no_proxy="4", all_proxy="5"
            ),
            extra_hosts=(ops.HostIP(host="h", ip="::1"),),
            hostname="n",
            ulimits=(ops.Ulimit(name="nofile", soft=-1, hard=9),),
            cgroup_parent="p",
            remove_mount_stubs_recursive=True,
            valid_exit_codes=(0, 3),
        ),
        mounts=(
            ops.Mount(dest="/", input=0, output=0),
            ops.Mount(dest="/b", input=1, selector="s", readonly=True, content_cache=ops.ContentCache.OFF),
            ops.Mount(
                dest="/c",
                type=ops.MountType.CACHE,
                cache=ops.CacheOptions(id="i", sharing=ops.CacheSharing.LOCKED),
            ),
            ops.Mount(dest="/t", type=ops.MountType.TMPFS, tmpfs_size=0),
            ops.Mount(
                dest="/s",
                type=ops.MountType.SECRET,
                secret=ops.SecretOptions(id="i", uid=1, gid=2, mode=0o400, optional=True),
            ),
            ops.Mount(dest="/a", type=ops.MountType.SSH, ssh=ops.SecretOptions(id="default", mode=0o600)),
        ),
        network=ops.NetMode.HOST,
        security=ops.SecurityMode.INSECURE,
        secret_env=(ops.SecretEnv(id="i", name="N", optional=True),),
        devices=(ops.Device(name="d", optional=True),),
    ),
    "file": ops.FileOp(
        actions=(
            ops.FileAction(
                action=ops.Copy(
                    src="/a",
                    dest="/b/",
                    owner=ops.Owner(user=ops.NamedUser(name="u", input=0), group=7),
                    mode=0o644,
                    follow_symlink=True,
                    dir_copy_contents=True,
                    attempt_unpack=True,
                    create_dest_path=True,
                    allow_wildcard=True,
                    allow_empty_wildcard=True,
                    timestamp=0,
                    include=("i",),
                    exclude=("e",),
                    always_replace=True,
                ),
                input=0,
                secondary=1,
            ),
            ops.FileAction(action=ops.Copy(src="/", dest="/", mode="u+x"), input=2, secondary=1),
            ops.FileAction(action=ops.Copy(src="/", dest="/", owner=ops.Owner(user=0)), input=3, secondary=2),
            ops.FileAction(action=ops.MakeFile(path="/f", mode=0o600, data=b"\0", timestamp=5), input=4),
            ops.FileAction(
                action=ops.MakeDirectory(
                    path="/d", mode=0o755, make_parents=True, owner=ops.Owner(group=ops.NamedUser(name="g"))
                ),
                input=5,
            ),
            ops.FileAction(action=ops.MakeSymlink(target="t", path="/l"), input=6),
            ops.FileAction(
                action=ops.Remove(path="/x", allow_not_found=True, allow_wildcard=True), input=7, output=0
            ),
        )
    ),
    "merge": ops.MergeOp(inputs=(1, 0)),
    "diff": ops.DiffOp(lower=None, upper=1),
    "build": ops.BuildOp(
        builder=None,
        inputs={"": 0},
        definition=Definition(ops=(b"x",), metadata={NOWHERE: b"m"}, source=b"s"),
        attrs={"llbbuild.filename": "f"},
    ),
}


@pytest.mark.parametrize("kind", EVERY_OP)
def test_every_operation_is_read_as_it_was_written(kind: str) -> None:
    op = EVERY_OP[kind]
    inputs = [ops.Input(digest=NOWHERE), ops.Input(digest=NOWHERE, index=1)]
    decoded = DecodedOp(encode_op(op, inputs, platform=AMD64, filters=["f"]))
    assert decoded.op == op
    assert decoded.inputs == tuple(inputs)
    assert decoded.platform == AMD64
    assert decoded.filters == ("f",)


def test_an_image_has_the_bytes_that_buildkit_gives_it() -> None:
    """Laid out by hand: source before platform, and constraints although they are empty."""
    raw = encode_op(
        ops.SourceOp(identifier="docker-image://docker.io/library/busybox:latest"),
        platform=Platform(os="linux", architecture="amd64"),
    )
    source = b"\x0a\x2fdocker-image://docker.io/library/busybox:latest"
    platform = b"\x0a\x05amd64\x12\x05linux"
    assert (
        raw
        == b"\x1a" + bytes([len(source)]) + source + b"\x52" + bytes([len(platform)]) + platform + b"\x5a\0"
    )


def test_a_graph_holds_what_its_result_needs_inputs_first() -> None:
    base = image()
    left, right = run(base)["/"], run(image("other"))["/"]
    merged = make.merge([left, None, right], STYLE)
    made = graph.load(make.definition(merged))
    assert [type(vertex.op).__name__ for vertex in made.vertices.values()] == [
        "SourceOp",
        "ExecOp",
        "SourceOp",
        "ExecOp",
        "MergeOp",
    ]
    assert merged is not None
    assert made.result == merged.as_input()
    assert made.vertices[merged.node.digest].name == "merge (/bin/sh -c x, /bin/sh -c x)"


def test_a_definition_survives_its_own_message() -> None:
    location = Location(
        file=SourceFile(filename="Dockerfile", data=b"RUN x\n"), ranges=(SourceRange(start=1, end=2),)
    )
    style = make.Style(platform=AMD64, locations=(location,), metadata=Metadata(ignore_cache=True))
    edge = run(image(), style=style)["/"]
    made = make.definition(edge)
    again = decode_definition(encode_definition(made))
    assert again == made
    assert decode_locations(again.source) == {edge.node.digest: (location,)}
    assert graph.load(again).vertices[edge.node.digest].metadata.ignore_cache


def test_metadata_is_read_as_it_was_written_and_merged() -> None:
    one = Metadata(
        ignore_cache=True,
        description={"llb.customname": "n"},
        export_cache=False,
        caps=frozenset({"file.base"}),
        progress_group=ProgressGroup(id="i", name="n", weak=True),
    )
    assert decode_metadata(encode_metadata(one)) == one
    assert decode_metadata(encode_metadata(Metadata())) == Metadata()
    assert Metadata().merged(one) == one
    assert one.merged(Metadata()) == one


def test_nodes_with_equal_bytes_become_one_vertex_with_the_metadata_of_both() -> None:
    named = make.Style(platform=AMD64, metadata=Metadata(description={"llb.customname": "named"}))
    exported = make.Style(platform=AMD64, metadata=Metadata(export_cache=True))
    merged = make.merge([run(image(style=named))["/"], image(style=exported)], STYLE)
    made = graph.load(make.definition(merged))
    assert next(vertex.name for vertex in made.vertices.values()) == "named"
    assert len(made.vertices) == 3
    assert made.vertices[image().node.digest].metadata.export_cache is True


def test_mounts_are_sorted_and_share_inputs_and_outputs_are_numbered() -> None:
    base = image()
    outputs = run(
        base,
        make.MountWish(mount=ops.Mount(dest="/z"), source=base, keep=True),
        make.MountWish(mount=ops.Mount(dest="/c", readonly=True), source=base),
    )
    op = DecodedOp(outputs["/"].node.raw).op
    assert isinstance(op, ops.ExecOp)
    assert [(one.dest, one.input, one.output) for one in op.mounts] == [
        ("/", 0, 0),
        ("/c", 0, None),
        ("/z", 0, 1),
    ]
    assert outputs["/z"].index == 1
    assert graph.load(make.definition(outputs["/z"])).result == ops.Input(
        digest=outputs["/z"].node.digest, index=1
    )


def test_file_actions_work_on_what_the_one_before_left() -> None:
    base, context = image(), make.source(ops.SourceOp(identifier="local://context"), STYLE)
    steps: list[tuple[ops.Action, make.Edge | None]] = [
        (ops.Copy(src="/a", dest="/a"), context),
        (ops.MakeDirectory(path="/d", mode=0o755), None),
        (ops.Copy(src="/b", dest="/b"), context),
    ]
    edge = make.change(base, steps, STYLE)
    op = DecodedOp(edge.node.raw).op
    assert isinstance(op, ops.FileOp)
    assert [(one.input, one.secondary, one.output) for one in op.actions] == [
        (0, 1, None),
        (2, None, None),
        (3, 1, 0),
    ]
    name = graph.load(make.definition(edge)).vertices[edge.node.digest].name
    assert name == "copy /a /a, mkdir /d, copy /b /b"
    empty = make.change(None, [(ops.MakeDirectory(path="/d", mode=0o755), None)], STYLE)
    made = DecodedOp(empty.node.raw).op
    assert isinstance(made, ops.FileOp)
    assert made.actions[0].input is None


def test_scratch_needs_no_operations() -> None:
    base = image()
    assert make.definition(None) == Definition()
    assert graph.load(Definition()) == graph.Graph(vertices={}, result=None)
    assert make.merge([None], STYLE) is None
    assert make.merge([None, base], STYLE) is base
    assert make.difference(None, base, STYLE) is base


@pytest.mark.parametrize(
    ("op", "inputs", "name"),
    [
        (ops.DiffOp(lower=0, upper=None), ["a"], "diff (a) -> scratch"),
        (ops.BuildOp(), [], "build"),
        (EVERY_OP["source"], [], "local://context"),
        (
            EVERY_OP["file"],
            [],
            "copy /a /b/, copy / /, copy / /, mkfile /f, mkdir /d, symlink /l -> t, rm /x",
        ),
    ],
)
def test_vertices_have_names(op: ops.Op, inputs: list[str], name: str) -> None:
    assert graph.default_name(op, inputs) == name


def test_a_difference_names_both_sides() -> None:
    edge = make.difference(image(), run(image())["/"], STYLE)
    assert edge is not None
    names = [vertex.name for vertex in graph.load(make.definition(edge)).vertices.values()]
    assert names[-1] == "diff (docker-image://busybox) -> (/bin/sh -c x)"
    one_sided = make.difference(image(), None, STYLE)
    assert one_sided is not None
    assert len(one_sided.node.inputs) == 1


def test_a_very_deep_graph_is_no_trouble() -> None:
    edge = image()
    for _ in range(3000):
        edge = run(edge)["/"]
    assert len(graph.load(make.definition(edge)).vertices) == 3001


# What a client may send.


def with_terminal(*raws: bytes, index: int = 0) -> Definition:
    last = ops.Input(digest=Digest.of(raws[-1]), index=index)
    return Definition(ops=(*raws, encode_terminal(last)))


SOURCE = encode_op(ops.SourceOp(identifier="docker-image://x"))


def message(**fields: Any) -> bytes:
    return pb.Op(inputs=[pb.Input(digest=Digest.of(SOURCE))], **fields).SerializeToString()


def mount(**fields: Any) -> dict[str, Any]:
    return {"exec": pb.ExecOp(meta=pb.Meta(args=["x"]), mounts=[pb.Mount(**{"dest": "/", **fields})])}


def action(**fields: Any) -> dict[str, Any]:
    return {"file": pb.FileOp(actions=[pb.FileAction(**fields)])}


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({}, UnsupportedError, "unknown kind"),
        ({"exec": pb.ExecOp()}, InvalidArgumentError, "no args"),
        ({"exec": pb.ExecOp(meta=pb.Meta(args=["x"]))}, InvalidArgumentError, "no rootfs"),
        (mount(input=1), InvalidArgumentError, "input 1 of 1"),
        (mount(input=-2), InvalidArgumentError, "input -2 of 1"),
        (mount(output=-2), InvalidArgumentError, "output -2"),
        (mount(output=1), InvalidArgumentError, "number its outputs"),
        (mount(mountType=9), UnsupportedError, "MountType 9"),
        (mount(contentCache=9), UnsupportedError, "ContentCache 9"),
        ({"file": pb.FileOp()}, InvalidArgumentError, "no actions"),
        (action(output=0), UnsupportedError, "unknown kind"),
        (action(rm=pb.FileActionRm(), input=1), InvalidArgumentError, "input 1 of 1"),
        (action(rm=pb.FileActionRm(), secondaryInput=2), InvalidArgumentError, "input 2 of 1"),
        ({"source": pb.SourceOp(identifier="x")}, InvalidArgumentError, "no scheme"),
        ({"merge": pb.MergeOp(inputs=[pb.MergeInput(input=1)])}, InvalidArgumentError, "input 1 of 1"),
        ({"diff": pb.DiffOp(lower=pb.LowerDiffInput(input=4))}, InvalidArgumentError, "input 4 of 1"),
        ({"build": pb.BuildOp(inputs={"": pb.BuildInput(input=2)})}, InvalidArgumentError, "input 2 of 1"),
    ],
)
def test_an_impossible_operation_is_refused(fields: Any, error: type[LadingError], text: str) -> None:
    with pytest.raises(error, match=text):
        graph.load(with_terminal(SOURCE, message(**fields)))


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (Definition(ops=(b"\xff",)), "malformed"),
        (Definition(ops=(SOURCE,)), "bare one"),
        (Definition(ops=(SOURCE, pb.Op().SerializeToString())), "bare one"),
        (with_terminal(SOURCE, index=1), "output 1 of 1"),
        (with_terminal(message(merge=pb.MergeOp())), "missing input"),
        (
            Definition(ops=(SOURCE, pb.Op(inputs=[pb.Input(digest="x")]).SerializeToString())),
            "invalid digest",
        ),
        (
            Definition(ops=(SOURCE, pb.Op(inputs=[pb.Input(digest=NOWHERE, index=-1)]).SerializeToString())),
            "output -1",
        ),
        (
            replace(with_terminal(SOURCE), metadata={Digest.of(SOURCE): b"\xff"}),
            "metadata is malformed",
        ),
    ],
)
def test_an_impossible_graph_is_refused(definition: Definition, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        graph.load(definition)


def test_an_ability_that_is_not_there_is_named() -> None:
    metadata = {Digest.of(SOURCE): encode_metadata(Metadata(caps=frozenset({"exec.meta.cdi"})))}
    with pytest.raises(UnsupportedError, match=r"exec\.meta\.cdi"):
        graph.load(replace(with_terminal(SOURCE), metadata=metadata))


def test_a_huge_definition_is_refused() -> None:
    with pytest.raises(ResourceExhaustedError):
        graph.load(Definition(ops=(b"",) * (graph.OPS_LIMIT + 1)))


def test_a_cycle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests make one impossible, so the walk is shown one."""
    two = Digest("sha256:" + "1" * 64)

    class Loop:
        def __init__(self, other: Digest) -> None:
            self.inputs = (ops.Input(digest=other),)

    with pytest.raises(InvalidArgumentError, match="cycle"):
        graph._in_order(NOWHERE, lambda digest: Loop(two if digest == NOWHERE else NOWHERE))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [decode_definition, decode_metadata, decode_locations])
def test_bytes_that_are_no_message_are_refused(what: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="malformed"):
        what(b"\xff\xff")


def test_a_source_map_names_files_that_it_has() -> None:
    source = pb.Source(locations={NOWHERE: pb.Locations(locations=[pb.Location(sourceIndex=1)])})
    with pytest.raises(InvalidArgumentError, match="file 1 of 0"):
        decode_locations(source.SerializeToString())


# As provenance shows it.


def test_an_operation_is_shown_as_buildkit_shows_it() -> None:
    inputs = [ops.Input(digest=NOWHERE), ops.Input(digest=NOWHERE, index=1)]
    shown = op_json(encode_op(EVERY_OP["file"], inputs))
    assert isinstance(shown, dict)
    assert shown["inputs"] == [{"digest": NOWHERE}, {"digest": NOWHERE, "index": 1}]
    assert shown["constraints"] == {}
    group = shown["Op"]
    assert isinstance(group, dict)
    actions = group["file"]["actions"]  # type: ignore[index]
    assert actions[2] == {
        "input": 3,
        "secondaryInput": 2,
        "output": -1,
        "Action": {
            "copy": {"src": "/", "dest": "/", "owner": {"user": {"User": {}}}, "mode": -1, "timestamp": -1}
        },
    }
    assert actions[0]["Action"]["copy"]["owner"] == {
        "user": {"User": {"byName": {"name": "u"}}},
        "group": {"User": {"byId": 7}},
    }
    assert actions[3]["Action"]["mkfile"]["data"] == "AA=="
    source = op_json(encode_op(EVERY_OP["source"], platform=AMD64))
    assert isinstance(source, dict)
    assert source["Op"] == {"source": {"identifier": "local://context", "attrs": {"local.session": "x"}}}
    assert source["platform"] == {
        "Architecture": "amd64",
        "OS": "linux",
        "OSVersion": "1",
        "OSFeatures": ["f"],
    }


def test_names_of_merges_do_not_grow_without_end() -> None:
    tree = make.source(ops.SourceOp(identifier="docker-image://a"), make.Style())
    for _ in range(60):
        merged = make.merge([tree, make.difference(tree, tree, make.Style())], make.Style())
        assert merged is not None
        tree = merged
    names = [vertex.name for vertex in graph.load(make.definition(tree)).vertices.values()]
    assert max(map(len, names)) == graph.NAME_LIMIT
