"""Credentials of the daemon's own: Docker's ``config.json`` and the helpers that it names."""

import base64
import binascii
import os
import re
import subprocess
from typing import Final, Protocol

import anyio
import msgspec
import structlog
from typing_extensions import override

from lading.core.remotes import Credentials
from lading.errors import LadingError, UnauthenticatedError
from lading.kit import aio
from lading.oci.document import decode
from lading.remotes.hosts import DOCKER_HUB

HELPER_TIMEOUT: Final = 10.0
HELPER_OUTPUT: Final = 64 << 10
CONFIG_LIMIT: Final = 1 << 20
HUB_KEY: Final = "https://index.docker.io/v1/"
"""What Docker files the credentials of docker.io under."""
_TOKEN_USER: Final = "<token>"  # noqa: S105  what helpers say instead of a name
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_log = structlog.get_logger()


class Keychain(Protocol):
    """Finds credentials for a registry's name (``docker.io``, ``host:port``)."""

    async def lookup(self, namespace: str) -> Credentials | None:
        """The credentials, or None."""
        ...


class NoKeychain(Keychain):
    """Knows nothing."""

    @override
    async def lookup(self, namespace: str) -> Credentials | None:
        return None


class _Auth(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _ConfigFile(msgspec.Struct):
    auths: dict[str, _Auth] = msgspec.field(default_factory=dict[str, _Auth])
    creds_store: str = msgspec.field(default="", name="credsStore")
    cred_helpers: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="credHelpers")


class _HelperReply(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


class DockerKeychain(Keychain):
    """Reads ``path`` anew for each lookup. A helper is ``docker-credential-<name>`` found along ``helper_path``, or an
    absolute path; it is started without a shell, for at most 10 s and 64 KiB of output.
    """

    def __init__(self, path: str, helper_path: str) -> None:
        self._path = path
        self._helper_path = helper_path

    @override
    async def lookup(self, namespace: str) -> Credentials | None:
        try:
            config = await aio.run(aio.DISK, self._read)
        except (OSError, LadingError) as exc:
            _log.warning("docker_config_ignored", path=self._path, error=type(exc).__name__)
            return None
        keys = server_keys(namespace)
        for key in keys:
            helper = config.cred_helpers.get(key)
            if helper:
                return await self._ask(helper, key)
        if config.creds_store:
            for key in keys[:2]:
                if (found := await self._ask(config.creds_store, key)) is not None:
                    return found
        for name, auth in config.auths.items():
            if name in keys or bare_host(name) in keys:
                return _credentials(auth, namespace)
        return None

    def _read(self) -> _ConfigFile:
        try:
            with open(self._path, "rb") as file:
                data = file.read(CONFIG_LIMIT + 1)
        except FileNotFoundError:
            return _ConfigFile()
        return decode(data, _ConfigFile, what="Docker's config.json", limit=CONFIG_LIMIT)

    async def _ask(self, helper: str, key: str) -> Credentials | None:
        program = self._find(helper)
        if not program:
            _log.warning("credential_helper_missing", helper=helper[:80])
            return None
        try:
            with anyio.fail_after(HELPER_TIMEOUT):
                status, output = await _run(program, key.encode())
        except (TimeoutError, OSError) as exc:
            _log.warning("credential_helper_failed", helper=program, error=type(exc).__name__)
            return None
        if status != 0:
            return None  # "credentials not found" is an ordinary answer
        try:
            reply = decode(output, _HelperReply, what="the credential helper's reply", limit=HELPER_OUTPUT)
        except LadingError:
            _log.warning("credential_helper_failed", helper=program, error="malformed reply")
            return None
        if reply.username == _TOKEN_USER:
            return Credentials(identity_token=reply.secret, server_address=key)
        return Credentials(username=reply.username, password=reply.secret, server_address=key)

    def _find(self, helper: str) -> str:
        if os.path.isabs(helper):
            return helper if os.access(helper, os.X_OK) else ""
        if not _NAME.fullmatch(helper):
            return ""
        for directory in self._helper_path.split(os.pathsep):
            path = os.path.join(directory, f"docker-credential-{helper}")
            if os.path.isabs(path) and os.access(path, os.X_OK):
                return path
        return ""


async def _run(program: str, question: bytes) -> tuple[int, bytes]:
    """Run a helper; its exit status and output. It is killed if it says too much or the caller leaves."""
    output = bytearray()
    process = await anyio.open_process([program, "get"], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            await process.stdin.send(question + b"\n")
            await process.stdin.aclose()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # it need not read its question to answer
        async for piece in process.stdout:
            output += piece
            if len(output) > HELPER_OUTPUT:
                raise OSError("too much output")
        return await process.wait(), bytes(output)
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


def server_keys(namespace: str) -> tuple[str, ...]:
    """Under which names Docker's tools file the credentials of a registry, likeliest first."""
    if namespace == DOCKER_HUB:
        return (HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io")
    return (namespace, f"https://{namespace}", f"http://{namespace}")


def bare_host(server: str) -> str:
    """Host and port of a server address as `docker login` takes it."""
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _credentials(auth: _Auth, namespace: str) -> Credentials | None:
    username, password = auth.username, auth.password
    if auth.auth:
        try:
            pair = base64.b64decode(auth.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise UnauthenticatedError(
                f"the credentials of {namespace} in Docker's config.json are damaged", hint="log in again"
            ) from exc
        username, _, password = pair.partition(":")
        password = password.rstrip("\0")
    if not (username or auth.identitytoken or auth.registrytoken):
        return None
    return Credentials(
        username=username,
        password=password,
        identity_token=auth.identitytoken,
        registry_token=auth.registrytoken,
        server_address=namespace,
    )
