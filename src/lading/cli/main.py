"""The commands that talk to a daemon, over its public API."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

import lading
from lading.cli.client import Client
from lading.cli.show import Progress, finding, path, size
from lading.errors import LadingError, UnavailableError

_HOST: Final = click.option(
    "-H", "--host", default="", metavar="HOST", help="Daemon to talk to (default: DOCKER_HOST)."
)
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
_SWITCH_SECONDS: Final = 60
FOUND_DAMAGE: Final = 2
"""Exit status of ``fsck`` when damage is left."""


@click.group(context_settings=_SETTINGS)
@click.option(
    "-H", "--host", "outer", default="", metavar="HOST", help="Daemon to talk to (default: DOCKER_HOST)."
)
@click.version_option(package_name="lading", prog_name="lading", message="Lading version %(version)s")
@click.pass_context
def group(context: click.Context, outer: str) -> None:
    """The containerd image store, in Python."""
    context.obj = outer


def _client(context: click.Context, host: str) -> Client:
    return Client(host or str(context.obj or ""))


@group.command()
def version() -> None:
    """Show the version."""
    click.echo(f"Lading version {lading.__version__}")


@group.group()
def store() -> None:
    """Look at the store, and choose between the two image stores."""


@store.command()
@_HOST
@_JSON
@click.pass_context
def status(context: click.Context, host: str, *, as_json: bool) -> None:
    """Show what the store holds, and what it costs."""
    found = _client(context, host).get("/lading/store")
    if as_json:
        _print_json(found)
        return
    width = max(len(key) for key in found)
    for key, value in found.items():
        click.echo(f"{key + ':':{width + 2}}{size(value) if key.endswith('Bytes') else value}")


@store.command()
@_HOST
@click.option("--stop", is_flag=True, help="Stop the running containers, which are hidden with their store.")
@click.argument("kind", metavar="containerd|classic", type=click.Choice(["containerd", "classic"]))
@click.pass_context
def use(context: click.Context, host: str, kind: str, *, stop: bool) -> None:
    """Use the containerd or the classic image store from now on. The other one's images and containers are hidden, not lost."""
    client = _client(context, host)
    (answer,) = client.stream(f"/lading/store/use?store={kind}&stop={int(stop)}")
    if answer["Restarting"]:
        found = _wait_for(client, kind)
        images, containers = found["HiddenImages"], found["HiddenContainers"]
        if images or containers:
            click.echo(f"hidden now: {_counted(images, 'image')} and {_counted(containers, 'container')}")
    click.echo(f"the {kind} image store is in use")


@store.command()
@_HOST
@_JSON
@click.option("--offline", is_flag=True, help="Ask no registry what it knows the images by.")
@click.option("--fetch", is_flag=True, help="Download the layers' blobs of images whose digests are kept.")
@click.pass_context
def migrate(context: click.Context, host: str, *, offline: bool, fetch: bool, as_json: bool) -> int:
    """Copy the images of the classic store into the containerd store, which must be in use. The classic store stays as it is."""
    target = f"/lading/store/migrate?offline={int(offline)}&fetch={int(fetch)}"
    result = _follow(_client(context, host), target, "migrating")
    if as_json:
        _print_json(result)
    else:
        made = result["Migrated"] - result["DigestsKept"]
        click.echo(
            f"{_counted(result['Migrated'], 'image')} migrated: {result['DigestsKept']} with the registry's digests, "
            f"{made} with a new manifest; {result['Present']} were here already"
        )
        if result["DigestsKept"] and not fetch:
            click.echo(
                "Layers of images with the registry's digests are here unpacked only. They run, and go back to where they came "
                "from. Before they can be saved or pushed elsewhere, pull them again; with --fetch that is done at once. "
                "If no registry has them any more, a save or a push packs them anew, under a new digest."
            )
        for each in result["NamesTaken"]:
            short = each["ID"].partition(":")[2][:12]
            click.echo(
                f"name not given: {each['Name']} means another image here; the one of the classic store is {short}, "
                f"which docker tag {short} NAME names",
                err=True,
            )
        for each in result["Failed"]:
            click.echo(f"not migrated: {each}", err=True)
    return 1 if result["Failed"] else 0


def _wait_for(client: Client, kind: str) -> dict[str, Any]:
    """The state of the store once the daemon has opened it; it is away for a moment."""
    import time

    deadline = time.monotonic() + _SWITCH_SECONDS
    while time.monotonic() < deadline:
        try:
            found: dict[str, Any] = client.get("/lading/store")
            if found["Store"] == kind:
                return found
        except LadingError:
            pass  # it is away for this moment
        time.sleep(0.1)
    raise UnavailableError(f"the daemon did not come back with the {kind} store", hint="see its log")


@group.command()
@_HOST
@_JSON
@click.argument("what", metavar="DIGEST|IMAGE")
@click.pass_context
def why(context: click.Context, host: str, what: str, *, as_json: bool) -> None:
    """Tell what keeps a blob alive, or what an image points to."""
    found = _client(context, host).get(f"/lading/why/{_quoted(what)}")
    if as_json:
        _print_json(found)
        return
    click.echo(found["Digest"])
    click.echo(path(found["Path"]) or "  nothing keeps it: the next garbage collection deletes it")


@group.command()
@_HOST
@_JSON
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--without",
    multiple=True,
    metavar="IMAGE",
    help="With --dry-run: as if this image were removed; repeatable.",
)
@click.pass_context
def gc(context: click.Context, host: str, *, dry_run: bool, without: tuple[str, ...], as_json: bool) -> None:
    """Collect garbage now, or say what a collection or the removal of images would free."""
    query = "".join(f"&without={_quoted(name)}" for name in without)
    result = _follow(_client(context, host), f"/lading/gc?dry-run={int(dry_run)}{query}", "collecting")
    if as_json:
        _print_json(result)
        return
    verb = "would free" if dry_run else "freed"
    parts = ", ".join(_counted(count, kind) for kind, count in result["Deleted"].items()) or "nothing"
    click.echo(f"{verb} {size(result['FreedBytes'])}: {parts}")


@group.command()
@_HOST
@_JSON
@click.option("--repair", is_flag=True, help="Repair what can be repaired.")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Without a daemon: make a new database, out of what can be read of the old one and of what is on the disk.",
)
@click.option("--data-root", default="", metavar="DIR", help="With --rebuild: as the daemon has it.")
@click.option("--config-file", default="", metavar="FILE", help="With --rebuild: as the daemon has it.")
@click.pass_context
def fsck(
    context: click.Context,
    host: str,
    *,
    repair: bool,
    rebuild: bool,
    data_root: str,
    config_file: str,
    as_json: bool,
) -> int:
    """Check every blob and every layer that was unpacked from one.

    A daemon whose database is damaged or lost does not start. Then --rebuild makes a new one. It deletes nothing: the
    old database, and what the new one does not know, is set aside in the directory "lost" of the data-root.
    """
    if rebuild:
        return _rebuild(data_root, config_file, as_json=as_json)
    if data_root or config_file:
        raise click.UsageError("--data-root and --config-file are for --rebuild; a daemon knows its own")
    findings: list[dict[str, Any]] = []

    def note(found: dict[str, Any]) -> None:
        findings.append(found)
        if not as_json:
            click.echo(finding(found))

    result = _follow(_client(context, host), f"/lading/fsck?repair={int(repair)}", "checking", note)
    if as_json:
        _print_json({**result, "Findings": findings})
    else:
        click.echo(f"{result['Checked']} checked, {len(findings)} damaged, {result['Repaired']} repaired")
    left = len(findings) - int(result["Repaired"])
    if left and not as_json:
        click.echo("run 'lading fsck --repair'" if not repair else "pull the named images again")
    return FOUND_DAMAGE if left else 0


def _rebuild(data_root: str, config_file: str, *, as_json: bool) -> int:
    import anyio

    from lading.daemon import config, rebuild

    given = {"--data-root": data_root, "--config-file": config_file}
    loaded = config.load([f"{flag}={value}" for flag, value in given.items() if value]).config
    report = anyio.run(rebuild.rebuild, loaded)
    if as_json:
        _print_json(rebuild.as_json(report))
    else:
        for line in rebuild.words(report):
            click.echo(line)
    return 0


@group.command()
@_HOST
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1 (default: any that is free)."
)
@click.pass_context
def desktop(context: click.Context, host: str, port: int) -> None:
    """Show images, containers and settings in a browser.

    Serves a page on this machine alone until Ctrl-C. Who has the URL that is printed can do what the page can do.
    """
    import anyio

    from lading.desktop.server import Engine, open_page

    client = _client(context, host)
    client.get("/lading/store")
    engine = Engine(host=client.host, tls=client.tls())

    async def serve() -> None:
        async with open_page(engine, port=port) as url:
            click.echo(f"Open {url}\nCtrl-C ends it.")
            await anyio.sleep_forever()

    try:
        anyio.run(serve)
    except KeyboardInterrupt:
        click.echo()


def _follow(
    client: Client, target: str, words: str, note: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with Progress(words) as progress:
        for each in client.stream(target):
            if "result" in each:
                result = each["result"]
            elif "finding" in each and note is not None:
                note(each["finding"])
            else:
                progress.update(int(each.get("current", 0)), int(each.get("total", 0)))
    return result


def _counted(count: int, kind: str) -> str:
    return f"{count} {kind}" + ("" if count == 1 else "s")


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe=":")


def _print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2))


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit status."""
    try:
        status = group.main(args=list(arguments), prog_name="lading", standalone_mode=False)
    except LadingError as exc:
        click.echo(f"lading: {exc}", err=True)
        return 1
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return int(status or 0)
