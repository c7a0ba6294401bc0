"""Every image command of the ``docker`` client, side by side with the real dockerd in both of its stores: what users see is the same.

What differs by nature (times, IDs of things that were just made, sizes on disk) is made equal first. `KNOWN` names what
differs on purpose, each with its reason.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from e2e.conftest import MakeImage
from support.daemon import running_daemon
from support.dockerd import ContainerdDockerd, Dockerd, classic_dockerd, missing

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.nightly,
    pytest.mark.stores("containerd", "classic", itself=True),
    pytest.mark.timeout(900),
]

Said = tuple[int, str, str]
"""Exit code, standard output and standard error, normalised."""


def commands(name: str, other: str, place: Path, who: str) -> list[list[str]]:
    """Good and bad uses, in an order in which each finds what it needs."""
    pushed = name.replace("side/", f"pushed-by-{who}/")
    archive, broken = str(place / "saved.tar"), str(place / "broken.tar")
    missing_name = name.rpartition("/")[0] + "/nothing:here"
    return [
        ["pull", name],
        ["pull", name],
        ["pull", "-q", name],
        ["pull", missing_name],
        ["pull", "UPPER"],
        ["pull", f"{name}@sha256:123"],
        ["pull", "--platform", "linux/s390x", other],
        ["pull", "--platform", "linux/nothing", name],
        ["pull", "--platform", "linux/a/b/c/d", name],
        ["pull", "-a", f"{name}:latest"],
        ["images", "--format", "{{.Repository}}:{{.Tag}}"],
        ["images", "-q", "--no-trunc"],
        ["images", "--digests", "--format", "{{.Repository}} {{.Digest}}"],
        ["images", "--filter", "dangling=true", "-q"],
        ["images", "--filter", "dangling=perhaps"],
        ["images", "--filter", "nonsense=1"],
        ["images", "--filter", "reference=*/*/*:*", "--format", "{{.Repository}}"],
        ["images", "--filter", f"before={missing_name}"],
        ["images", "--filter", "label=none", "-q"],
        ["images", "--filter", "until=nonsense"],
        ["images", "nothing"],
        ["images", "--format", "json"],
        ["image", "inspect", "--format", "{{.Id}} {{.Os}} {{.Architecture}} {{.RootFS.Layers}}", name],
        ["image", "inspect", "--format", "{{json .Config}}", name],
        ["image", "inspect", "--format", "{{json .RepoTags}} {{json .RepoDigests}}", name],
        ["image", "inspect", "--format", "{{.Author}}|{{.Comment}}|{{.Parent}}|{{.DockerVersion}}", name],
        ["image", "inspect", missing_name],
        ["image", "inspect", name, missing_name, "--format", "{{.Os}}"],
        ["image", "inspect", "--platform", "linux/arm64", name],
        ["inspect", "--type", "image", missing_name],
        ["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", name],
        ["history", "-q", "--no-trunc", name],
        ["history", missing_name],
        ["tag", name, "copied:1"],
        ["tag", name, "copied:2"],
        ["tag", missing_name, "copied:3"],
        ["tag", name, "UPPER:1"],
        ["tag", name, "sha256:1"],
        ["tag", name, "with:digest@sha256:" + "0" * 64],
        ["tag", name],
        ["save", "-o", archive, name],
        ["save", missing_name],
        ["save", "-o", "/nowhere/at/all", name],
        ["save", "--platform", "linux/arm64", "-o", archive + "2", name],
        ["load", "-i", archive],
        ["load", "-q", "-i", archive],
        ["load", "-i", broken],
        ["load", "-i", "/nowhere"],
        ["load", "--platform", "linux/arm64", "-i", archive],
        ["import", broken, "imported:1"],
        ["import", archive, "imported:1"],
        ["import", "--change", 'CMD ["x"]', "--message", "said", archive, "imported:2"],
        ["import", "--change", "FROM x", archive, "imported:3"],
        ["import", archive, "UPPER"],
        ["image", "inspect", "--format", "{{.Comment}} {{json .Config.Cmd}}", "imported:2"],
        ["create", "--name", "user", "--network", "none", name, "true"],
        ["rmi", name],
        ["rmi", "copied:1"],
        ["rmi", "copied:1"],
        ["rmi", "--no-prune", "copied:2"],
        ["image", "rm"],
        ["rm", "user"],
        ["commit", "user"],
        ["create", "--name", "second", "--network", "none", name, "true"],
        ["commit", "-m", "made", "-a", "me", "-c", "ENV A=b", "second", "committed:1"],
        ["commit", "-c", "NONSENSE x", "second", "committed:2"],
        ["commit", "second", "UPPER"],
        ["image", "inspect", "--format", "{{.Author}} {{.Comment}} {{json .Config.Env}}", "committed:1"],
        ["ps", "-a", "--format", "{{.Names}} {{.Image}}"],
        ["rm", "-f", "second"],
        ["push", "-q", pushed],
        ["push", missing_name],
        ["tag", name, pushed],
        ["push", pushed],
        ["push", "-q", pushed],
        ["push", "-a", "-q", pushed],
        ["push", "--platform", "linux/arm64", pushed],
        ["search", "--limit", "1000", "x"],
        ["manifest", "inspect", "--insecure", missing_name],
        ["rmi", "committed:1", "imported:1", "imported:2", "nothing:1"],
        ["rmi", "-f", "sha256:0123456789"],
        ["rmi", "-f", name],
        ["image", "prune", "-f", "--filter", "nonsense=1"],
        ["image", "prune", "-f", "--filter", "until=nonsense"],
        ["image", "prune", "-a", "-f", "--filter", "label=none"],
        ["image", "prune", "-a", "-f"],
        ["images", "-aq"],
        ["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"],
    ]


def normalised(text: str) -> str:
    """Without what differs by nature; sorted, because of equal times and of layers that go side by side."""
    text = re.sub(r"sha256:[0-9a-f]{64}", "DIGEST", text)
    text = re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"\d+(\.\d+)?\s?[kKMG]?B\b", "SIZE", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z?|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", "TIME", text)
    text = re.sub(r'"CreatedSince":"[^"]*"|size: \d+', "", text)
    text = re.sub(r"pushed-by-[a-z]+", "pushed", text)
    text = text.replace("Error response from daemon: ", "")  # in a stream, or before it
    lines = {line for line in text.splitlines() if line.strip() and not _PROGRESS.search(line)}
    return "\n".join(sorted(lines))


_PROGRESS = re.compile(
    r": (Pulling fs layer|Download complete|Verifying Checksum|Pull complete|Already exists|Waiting|Preparing|Pushing|Pushed"
    r"|Layer already exists|Mounted from .*)$|^The push refers to|: Pulling from |^Untagged: moby-dangling"
)
"""Lines that come or not as quick as things go; and a name that is none."""


def all_said(host: str, uses: Sequence[Sequence[str]]) -> list[Said]:
    said: list[Said] = []
    for words in uses:
        done = subprocess.run(
            ["docker", "--host", host, *words],
            capture_output=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        said.append((done.returncode, normalised(done.stdout.decode()), normalised(done.stderr.decode())))
    return said


def different(uses: Sequence[Sequence[str]], ours: Sequence[Said], theirs: Sequence[Said]) -> list[str]:
    """What users would notice, in words."""
    return [
        f"{' '.join(words)}\n  ours:   {mine}\n  docker: {other}"
        for words, mine, other in zip(uses, ours, theirs, strict=True)
        if not same(mine, other) and not any(re.search(known, " ".join(words)) for known in KNOWN)
    ]


def same(mine: Said, other: Said) -> bool:
    """Whether they say the same; an error may say more than Docker's, such as the remedy, or less around it."""
    if mine[:2] != other[:2]:
        return False
    return mine[2] == other[2] or bool(mine[0] and (other[2] in mine[2] or mine[2] in other[2]))


KNOWN = {
    "^pull .*nothing:here": "the classic store's dockerd tells the registry's words instead",
    "^pull --platform linux/(nothing|a/b)": "what the image is for, and how a platform is written, is told",
    "^save .*nothing:here": "the classic store's dockerd does not name what it misses",
    "^(load|import) .*broken": "what is wrong with the archive is told in other words",
    "^load --platform linux/arm64": "dockerd loads the image all the same, or says nothing",
    "^image prune -a": "manifests below an index are told, too",
}
"""Commands (patterns) that answer otherwise, and why."""


@pytest.mark.skipif(bool(missing()), reason=missing() or "there is a dockerd")
@pytest.mark.parametrize("store", ["containerd", "classic"])
def test_users_see_what_docker_shows(images: MakeImage, tmp_path: Path, store: str) -> None:
    name, other = images("side/one:latest", layers=2), images("side/other:latest")
    (tmp_path / "broken.tar").write_bytes(b"no archive " * 100)
    kind = ContainerdDockerd if store == "containerd" else Dockerd
    with classic_dockerd(kind) as real:
        real.start()
        theirs = all_said(real.host, commands(name, other, tmp_path, "docker"))
    with running_daemon(*(["--storage-driver=overlay2"] if store == "classic" else [])) as daemon:
        ours = all_said(daemon.host, commands(name, other, tmp_path, "us"))
    found = different(commands(name, other, tmp_path, "us"), ours, theirs)
    assert found == [], "\n".join(found)
