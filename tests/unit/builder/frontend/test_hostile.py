"""Dockerfiles of a stranger: short, and meant to cost much. Each is built or refused, in time and memory by its length."""

import resource
import time

import anyio
import pytest
from support.gateways import MemoryGateway

from lading.builder.frontend.frontend import DockerfileFrontend
from lading.errors import LadingError

pytestmark = pytest.mark.anyio
LAUGHS = "ARG v0=xxxxxxxxxx\n" + "".join(f"ARG v{n + 1}={f'$v{n}' * 10}\n" for n in range(40))
STAGES = "FROM scratch AS s0\n" + "".join(f"ENV a{n}=x\n" for n in range(3000))
HOSTILE = {
    "variables that double each other": (f"{LAUGHS}FROM scratch\n", "stand for over"),
    "the same in a stage": (f"FROM scratch\n{LAUGHS}", "stand for over"),
    "stages that inherit": (
        STAGES + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(30_000)),
        "stand for over",
    ),
    "arguments in every history": (
        "FROM scratch\n" + "".join(f"ARG a{n}={'x' * 40}\n" for n in range(5000)) + '\nRUN ["x"]' * 5000,
        "stand for over",
    ),
    "patterns that try everything": (
        f"ARG v={'a' * 20_000}\nARG w=${{v//{'a*' * 500}b/}}\nFROM scratch$w\n",
        "",
    ),
    "expressions within each other": (f"ARG v={'${v:-' * 8000}{'}' * 8000}\nFROM scratch\n", "nested deeper"),
    "a trigger in a trigger": (f"FROM scratch\n{'ONBUILD ' * 8000}RUN x\n", "Chaining ONBUILD"),
    "a long line": (f"FROM scratch\nRUN {'x' * 10_000_000}\n", "line greater than max allowed size of 65535"),
    "heredocs that end nowhere": (
        f"FROM scratch\nRUN {''.join(f'<<a{n} ' for n in range(7000))}\nx\n",
        "unterminated",
    ),
    "a hundred thousand stages": (
        "".join(f"FROM scratch AS s{n}\n" for n in range(100_001)),
        "over 100000 instr",
    ),
    "stages on each other": (
        "FROM scratch AS s0\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(5000)),
        "",
    ),
    "a stage that needs itself": ("FROM scratch AS a\nCOPY --from=b x y\nFROM a AS b\n", ""),
    "images by the thousand": (
        "FROM scratch\n" + "".join(f"COPY --from=missing{n} x y\n" for n in range(1000)),
        "not found",
    ),
    "a number of many digits": (
        f"FROM scratch\nCOPY --from={'9' * 5000} x y\n",
        "failed to parse stage name",
    ),
    "bytes that are none of a text": ('FROM scratch\nRUN ["a\0b"]\nENV \0=\0\nLABEL \0=\1\n', ""),
    "a name of many parts": (f"FROM {'a/' * 20_000}a\n", ""),
    "numbers of many digits": (f"FROM scratch\nEXPOSE {'9' * 5000}\n", ""),
    "an interval of many digits": (f"FROM scratch\nHEALTHCHECK --interval={'9' * 5000}s CMD x\n", ""),
    "retries of many digits": (
        f"FROM scratch\nHEALTHCHECK --retries={'9' * 5000} CMD x\n",
        "retries|invalid",
    ),
    "a size of many digits": (f"FROM scratch\nRUN --mount=type=tmpfs,target=/x,size={'9' * 5000} x\n", ""),
    "an owner of many digits": (f"FROM scratch\nCOPY --chown={'9' * 5000}:{'9' * 5000} <<a /x\nx\na\n", ""),
    "a mode of many digits": (f"FROM scratch\nCOPY --chmod={'7' * 5000} <<a /x\nx\na\n", ""),
    "a checksum of nothing": ("FROM scratch\nADD --checksum=sha256: https://localhost/x /x\n", ""),
    "an address that is none": ("FROM scratch\nADD https://[ /x\nADD http://[::1/x /x\n", ""),
    "a signal of many digits": (f"FROM scratch\nSTOPSIGNAL {'9' * 5000}\n", ""),
    "an array of arrays": (f"FROM scratch\nCMD {'[' * 30_000}\n", ""),
    "a platform of many parts": (f"FROM --platform={'a/' * 10_000}a scratch\n", ""),
    "options by the thousand": (f"FROM scratch\nRUN {'--mount=type=cache,target=/x ' * 2000} x\n", ""),
    "a device of many names": ("FROM scratch\nRUN --device=a=b,c=d x\n", ""),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_dockerfile_is_answered(case: str) -> None:
    text, said = HOSTILE[case]
    gateway = MemoryGateway({"dockerfile": {"Dockerfile": text.encode()}, "context": {"x": b""}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    try:
        await DockerfileFrontend().build(gateway)
        told = ""
    except LadingError as exc:
        told = exc.message
    assert not said or any(one in told for one in said.split("|")), told[:500]
    assert len(told) < 200_000
    assert time.process_time() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10, "MiB"


async def test_a_long_dockerfile_holds_up_nobody() -> None:
    text = "FROM scratch\n" + "LABEL a=b\n" * 20_000
    gateway = MemoryGateway({"dockerfile": {"Dockerfile": text.encode()}})
    longest, last = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            await anyio.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await DockerfileFrontend().build(gateway)
        await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert longest < 1.5


async def test_a_dockerfile_of_any_length_is_refused() -> None:
    gateway = MemoryGateway({"dockerfile": {"Dockerfile": b"#" * (17 << 20)}})
    with pytest.raises(LadingError, match="Dockerfile has over 16777216 bytes"):
        await DockerfileFrontend().build(gateway)
