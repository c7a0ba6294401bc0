"""The sessions that are connected, and the life of each."""

from typing import Final

import anyio
from typing_extensions import override

from lading.core.session import Offer, Session, Sessions
from lading.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from lading.kit.grpc.client import MESSAGE_LIMIT, Channel
from lading.kit.grpc.connection import Connection, Transport, open_connection
from lading.kit.grpc.status import GrpcError
from lading.kit.tasks import Signal
from lading.sessions.client import HEALTH, ClientSession

_HEALTH_SECONDS: Final = 5.0
_HEALTH_TIMEOUT: Final = 10.0
_FAILURES: Final = 2


class SessionRegistry(Sessions):
    """Every session of this daemon."""

    def __init__(self, *, health_seconds: float = _HEALTH_SECONDS) -> None:
        self._sessions: dict[str, ClientSession] = {}
        self._changed = Signal()
        self._health_seconds = health_seconds

    def check(self, offer: Offer) -> None:
        """Whether such a session can be opened. Raises `InvalidArgumentError`, `AlreadyExistsError`."""
        if not offer.id:
            raise InvalidArgumentError("the session has no ID", hint="send X-Docker-Expose-Session-Uuid")
        if offer.id in self._sessions:
            raise AlreadyExistsError(f"session {offer.id} is connected already", subject=offer.id)

    async def serve(self, transport: Transport, offer: Offer) -> None:
        """Keep a session until its connection ends or its client does not answer any more."""
        self.check(offer)
        async with open_connection(transport, client=True, limit=MESSAGE_LIMIT) as connection:
            session = ClientSession(offer.id, offer.shared_key, offer.methods, Channel(connection))
            self._sessions[offer.id] = session
            self._changed.wake()
            try:
                await self._watch(connection, session)
            finally:
                del self._sessions[offer.id]

    async def _watch(self, connection: Connection, session: ClientSession) -> None:
        failures = 0
        while not connection.closed:
            with anyio.move_on_after(self._health_seconds):
                await connection.ended.wait()
                return
            if not session.offers(HEALTH):
                continue
            try:
                with anyio.fail_after(_HEALTH_TIMEOUT):
                    await session.check_health()
                failures = 0
            except (GrpcError, TimeoutError):
                failures += 1
                if failures == _FAILURES:
                    return

    @override
    async def get(self, id: str, *, timeout: float = 5) -> Session:
        with anyio.move_on_after(timeout):
            while id not in self._sessions:
                await self._changed.wait()
        found = self._sessions.get(id)
        if found is None:
            raise NotFoundError(f"no active session for {id}: the client is gone", subject=id)
        return found
