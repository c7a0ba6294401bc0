"""Owners of COPY and ADD: the legacy builder refuses names that the image does not have; BuildKit takes them for root."""

from typing import Final

from lading.builder.model import Gateway
from lading.errors import InvalidArgumentError, LadingError
from lading.formats.llb import make, ops
from lading.formats.llb.decode import DecodedOp
from lading.formats.llb.make import Edge

_PLACE: Final = "unable to convert uid/gid chown string to host mapping"


async def check_owner(tree: Edge, gateway: Gateway) -> None:
    """Look for the names of a copy's owner, who is that of all its actions. Raises `InvalidArgumentError` in Docker's words."""
    op = DecodedOp(tree.node.raw).op
    actions = [one.action for one in op.actions] if isinstance(op, ops.FileOp) else []
    owner = next((one.owner for one in actions if isinstance(one, ops.Copy)), None)
    if owner is None:
        return
    for kind, named, path in (
        ("uid for user", owner.user, "/etc/passwd"),
        ("gid for group", owner.group, "/etc/group"),
    ):
        if not isinstance(named, ops.NamedUser):
            continue
        if ":" in named.name:
            raise InvalidArgumentError(f"{_PLACE}: invalid chown string format: more than one colon")
        base = None if named.input is None else tree.node.inputs[named.input]
        problem = await _problem(named.name, path, base, gateway)
        if problem:
            raise InvalidArgumentError(f"{_PLACE}: can't find {kind} {named.name}: {problem}")


async def _problem(name: str, path: str, base: Edge | None, gateway: Gateway) -> str:
    """Why a name is not in a file of a tree; empty if it is."""
    try:
        if base is None:
            return f"open {path}: no such file or directory"
        ref = await gateway.solve(make.definition(base))
        data = await ref.read_file(path)
    except LadingError as exc:
        return f"open {exc.message}"
    names = [line.strip().partition(b":")[0] for line in data.split(b"\n")]
    if name.encode("utf-8", "surrogateescape") in names:
        return ""
    return f"no such {'user' if path == '/etc/passwd' else 'group'}: {name}"
