"""Containers as the Engine API shows them: inspect, list, top. Sans-I/O."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lading.containers import defaults, links
from lading.containers.binds import Bind
from lading.containers.execs import Exec
from lading.containers.model import Container
from lading.kit import times


def status_text(container: Container, now: int) -> str:
    """The ``Status`` column of ``docker ps``."""
    state = container.state
    if state.running:
        up = f"Up {times.ago(state.started_at, now=now)}"
        if state.paused:
            return f"{up} (Paused)"
        if container.health is None:
            return up
        status = container.health.status
        return f"{up} (health: starting)" if status == "starting" else f"{up} ({status})"
    if state.restarting:
        return f"Restarting ({state.exit_code}) {times.ago(state.finished_at, now=now)} ago"
    if state.removing:
        return "Removal In Progress"
    if state.status == "created":
        return "Created"
    return f"Exited ({state.exit_code}) {times.ago(state.finished_at, now=now)} ago"


def _state(container: Container) -> dict[str, Any]:
    state = container.state
    made: dict[str, Any] = {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.paused,
        "Restarting": state.restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": times.format_nano(state.started_at),
        "FinishedAt": times.format_nano(state.finished_at),
    }
    if container.health is not None:
        made["Health"] = container.health.shown()
    return made


def _mounts(container: Container, volume_path: Callable[[str], str]) -> list[dict[str, Any]]:
    def shown(bind: Bind) -> dict[str, Any]:
        return {
            "Type": "bind",
            "Source": bind.source,
            "Destination": bind.target,
            "Mode": bind.mode,
            "RW": not bind.read_only,
            "Propagation": bind.propagation,
        }

    asked = [shown(bind) for bind in container.binds]
    asked += [
        {
            "Type": "volume",
            "Name": each.name,
            "Source": volume_path(each.name),
            "Destination": each.target,
            "Driver": "local",
            "Mode": each.mode,
            "RW": not each.read_only,
            "Propagation": each.propagation,
        }
        for each in container.document.volumes
    ]
    asked += [
        {
            "Type": "tmpfs",
            "Source": "",
            "Destination": t.target,
            "Mode": "",
            "RW": "ro" not in t.options,
            "Propagation": "",
        }
        for t in container.tmpfs
    ]
    asked += [
        {
            "Type": "image",
            "Source": each.image,
            "Destination": each.target,
            "Mode": "",
            "RW": False,
            "Propagation": "",
        }
        for each in container.images
    ]
    return asked


def inspect(
    container: Container,
    *,
    log_path: str,
    directory: str,
    driver: str,
    trees: Mapping[str, str],
    cgroup_v2: bool,
    network: dict[str, Any],
    volume_path: Callable[[str], str],
    sizes: tuple[int, int] | None,
) -> dict[str, Any]:
    """The inspect document of the newest API version; the edge shapes it for older ones."""
    document = container.document
    made: dict[str, Any] = {
        "Id": container.id,
        "Created": times.format_nano(document.created),
        "Path": document.path,
        "Args": document.args,
        "State": _state(container),
        "Image": container.record.target,
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": log_path,
        "Name": f"/{container.name}",
        "RestartCount": document.restart_count,
        "Driver": driver,
        "Platform": document.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [exec_.id for exec_ in container.execs.values() if exec_.running] or None,
        "HostConfig": host_config(container, cgroup_v2=cgroup_v2),
        "GraphDriver": {"Data": dict(trees) or None, "Name": driver},
        "Mounts": _mounts(container, volume_path),
        "Config": defaults.config(document.config),
        "NetworkSettings": network,
        "ImageManifestDescriptor": manifest_descriptor(container),
    }
    if sizes is not None:
        made |= {"SizeRw": sizes[0], "SizeRootFs": sizes[1]}
    return made


def host_config(container: Container, *, cgroup_v2: bool) -> dict[str, Any]:
    """``HostConfig`` with the defaults that took effect."""
    shown = defaults.host_config(container.document.host_config, container.host, cgroup_v2=cgroup_v2)
    shown["NetworkMode"] = network_mode(container)
    shown["Links"] = links.shown(container)
    log = container.host.log_config
    shown["LogConfig"] = {"Type": (log and log.type) or "json-file", "Config": (log and log.config) or {}}
    shown["RestartPolicy"] = {
        "Name": container.restart_policy.name or "no",
        "MaximumRetryCount": container.restart_policy.maximum_retry_count,
    }
    shown["Runtime"] = container.host.runtime or "runc"
    return shown


def network_mode(container: Container) -> str:
    """``NetworkMode`` as it took effect."""
    asked = container.host.network_mode or "default"
    return next(iter(container.document.networks), asked) if asked == "default" else asked


def manifest_descriptor(container: Container) -> dict[str, Any]:
    """``ImageManifestDescriptor``."""
    descriptor = container.document.manifest
    made: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.platform is not None:
        made["platform"] = {
            "architecture": descriptor.platform.architecture,
            "os": descriptor.platform.os,
        }
        if descriptor.platform.variant:
            made["platform"]["variant"] = descriptor.platform.variant
    return made


def summary(
    container: Container,
    *,
    now: int,
    linked: Sequence[str],
    networks: dict[str, Any],
    ports: list[dict[str, Any]],
    volume_path: Callable[[str], str],
    sizes: tuple[int, int] | None,
) -> dict[str, Any]:
    """A row of the container list. ``linked``: the names that other containers have given it."""
    document = container.document
    made: dict[str, Any] = {
        "Id": container.id,
        "Names": [f"/{container.name}", *linked],
        "Image": container.config.image,
        "ImageID": container.record.target,
        "ImageManifestDescriptor": manifest_descriptor(container),
        "Command": command(container),
        "Created": document.created // 10**9,
        "Ports": ports,
        "Labels": container.labels,
        "State": container.state.status,
        "Status": status_text(container, now),
        "HostConfig": {"NetworkMode": network_mode(container)},
        "NetworkSettings": {"Networks": networks},
        "Mounts": _mounts(container, volume_path),
    }
    if sizes is not None:
        made |= {"SizeRw": sizes[0], "SizeRootFs": sizes[1]}
    return made


def command(container: Container) -> str:
    """The command as ``docker ps`` shows it: arguments with spaces are quoted."""
    words = [container.document.path]
    words += [shlex.quote(arg) if " " in arg else arg for arg in container.document.args]
    return " ".join(words)


def inspect_exec(exec_: Exec) -> dict[str, Any]:
    """The inspect document of an exec."""
    request = exec_.request
    command_line = request.cmd or [""]
    return {
        "ID": exec_.id,
        "Running": exec_.running,
        "ExitCode": exec_.exit_code,
        "ProcessConfig": {
            "tty": request.tty,
            "entrypoint": command_line[0],
            "arguments": command_line[1:],
            "privileged": request.privileged,
            **({"user": request.user} if request.user else {}),
        },
        "OpenStdin": request.attach_stdin,
        "OpenStdout": request.attach_stdout,
        "OpenStderr": request.attach_stderr,
        "CanRemove": exec_.exit_code is not None,
        "ContainerID": exec_.container,
        "DetachKeys": request.detach_keys and request.detach_keys.encode().hex(),
        "Pid": exec_.pid,
    }
