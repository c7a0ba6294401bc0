"""An image with a frontend: this machine's Python, what the program imports, and the program."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import google.protobuf
import grpc

_SOURCE = Path(__file__).parents[2] / "src" / "lading"
_PACKAGES = ("anyio", "google", "grpc", "h2", "hpack", "hyperframe", "idna", "msgspec", "structlog")
_SKIPPED = (
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "ensurepip",
    "lib2to3",
    "tkinter",
    "config-*",
)
_UNUSED = (
    "pydoc_data",
    "distutils",
    "turtledemo",
    "unittest",
    "multiprocessing",
    "xml*",
    "*.opt-*.pyc",
    "*.a",
)
DOCKERFILE = """\
FROM scratch
COPY root /
LABEL moby.buildkit.frontend.caps="moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests"
ENV PYTHONPATH=/packages PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["{python}", "/program.py"]
"""


def write(directory: Path) -> None:
    """A build context, with a Dockerfile, for the image."""
    root = directory / "root"
    python = Path(sys.executable).resolve()
    _copy(python, root)
    for library in {*_libraries(python), *_libraries(Path(grpc.__file__).parent / "_cython/cygrpc*.so")}:
        _copy(library, root)
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        stdlib, root / stdlib.relative_to("/"), ignore=shutil.ignore_patterns(*_SKIPPED, *_UNUSED)
    )
    for library in (root / stdlib.relative_to("/")).glob("lib-dynload/*.so"):
        for needed in _libraries(library):
            _copy(needed, root)
    packages = root / "packages"
    site = Path(google.protobuf.__file__).parents[2]
    for name in _PACKAGES:
        shutil.copytree(site / name, packages / name, ignore=shutil.ignore_patterns("tests", "_pyinstaller"))
    for name in ("typing_extensions.py", "sniffio"):
        if (site / name).is_dir():
            shutil.copytree(site / name, packages / name)
        elif (site / name).exists():
            shutil.copy(site / name, packages / name)
    shutil.copytree(_SOURCE, packages / "lading")
    shutil.copy(Path(__file__).with_name("frontend_program.py"), root / "program.py")
    (root / "tmp").mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE.format(python=python))


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of a program, by the names under which they are looked for."""
    found: list[Path] = []
    for each in program.parent.glob(program.name):
        shown = subprocess.run(["ldd", str(each)], capture_output=True, text=True, check=True).stdout
        found += [Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+)", shown, re.MULTILINE)]
    return found


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), target)
