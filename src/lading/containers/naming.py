"""Names and IDs of containers."""

import contextlib
import re
import secrets
from collections.abc import Callable, Container, Generator
from typing import Final

from lading.errors import AlreadyExistsError, InvalidArgumentError

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,253}")
_ADJECTIVES: Final = """
    able agile amber ample arctic azure bold brave breezy bright brisk broad busy calm candid careful cheerful clever coastal
    crisp curious daring deep eager early earnest even fair famous fearless fine fleet fond frank free fresh gallant gentle
    glad golden grand handy happy hardy hearty honest humble jolly keen kind lively loyal lucid lucky mellow merry mighty
    modest nimble noble open patient placid plucky polite proud prudent quick quiet rapid ready robust salty serene sharp
    silver sincere smart snug solid spry stable steady stout strong sturdy sunny sure swift tidy trusty upbeat vivid warm
    wary weathered wide willing windy wise witty worthy zesty
""".split()  # noqa: SIM905 (a list of words reads better as words)
_NOUNS: Final = """
    anchor ballast barge barque beacon berth binnacle boatswain bollard bosun bow brig buoy cabin capstan caravel cargo
    clipper coaster compass convoy coracle corvette crane crew crow current cutter davit deck derrick dhow dinghy dock
    dory ferry flagship fleet forecastle freighter frigate galleon galley gangway gig gunwale halyard harbour hatch haven
    hawser helm hold hull jetty jib junk keel ketch lagoon launch lighter locker longboat lugger mainsail manifest mast
    mate mooring navigator oar packet pier pilot pinnace port prow punt purser quay raft rigger rudder sailor schooner
    scow sextant shipwright skiff skipper spar steamer stern stevedore sloop tanker tender tide tiller trawler tug
    wharf wherry windlass yacht yawl
""".split()  # noqa: SIM905 (a list of words reads better as words)


def new_id() -> str:
    """64 random hexadecimal digits, of which the first 12 are never all decimal (a host name must not be a number)."""
    while True:
        digits = secrets.token_hex(32)
        if not digits[:12].isdigit():
            return digits


def is_id(text: str) -> bool:
    """Whether this is a whole ID."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def random_name(taken: Container[str]) -> str:
    """An adjective and a noun that no container has; a digit is appended once free pairs are hard to find."""
    for attempt in range(1000):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}"
        if attempt >= 10:
            name += str(secrets.randbelow(10**6))
        if name not in taken:
            return name
    return new_id()[:12]


def check(name: str) -> str:
    """The name without its optional leading slash. Raises `InvalidArgumentError`."""
    bare = name.removeprefix("/")
    if not _NAME.fullmatch(bare):
        raise InvalidArgumentError(
            f"Invalid container name ({name[:300]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    return bare


class Names:
    """Gives names to containers, each to one. ``owner`` tells the ID of the container that has a name; ``None`` if none has."""

    def __init__(self, owner: Callable[[str], str | None]) -> None:
        self._owner = owner
        self._reserved: dict[str, str] = {}

    @contextlib.contextmanager
    def reserved(self, name: str, id: str) -> Generator[str]:
        """Keep a name, or a random one if it is empty, for the container ``id``, which has to have it when the context ends.

        Raises:
            InvalidArgumentError: It is no name.
            AlreadyExistsError: Another container has it, or is about to.

        """
        chosen = check(name) if name else random_name(self)
        if other := self._of(chosen):
            raise AlreadyExistsError(
                f'Conflict. The container name "/{chosen}" is already in use by container "{other}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
                subject=chosen,
            )
        self._reserved[chosen] = id
        try:
            yield chosen
        finally:
            del self._reserved[chosen]

    def __contains__(self, name: object) -> bool:
        return self._of(str(name)) is not None

    def _of(self, name: str) -> str | None:
        return self._reserved.get(name) or self._owner(name)
