"""What netavark leaves open: who may send packets to a bridge from outside it, and from an internal one to anywhere.

One nftables table for each bridge in use, made and deleted whole, so that it is there or not. Only new connections to published
ports come in, as with Docker 28; nothing enters or leaves the bridge of an internal network. Where there is no nft, netavark's
own rules are all there is.
"""

import json
import shutil
from collections.abc import Collection
from typing import Any, Final

import anyio

from lading.core.networks import BRIDGE, Network
from lading.errors import UnavailableError

_PREFIX: Final = "lading-"
_NETAVARK: Final = ("inet", "netavark")
_COMMON: Final = 'oifname "{0}" iifname != "{0}" '
_RULES: Final = {
    False: (_COMMON + "ct status dnat accept", _COMMON + "ct state new drop"),
    True: (_COMMON + "drop", 'iifname "{0}" oifname != "{0}" drop'),
}
"""By whether the network is internal."""
_LOCAL: Final = """chain local {{
type nat hook output priority -110; policy accept;
ip6 daddr ::1 tcp dport {{ {0} }} redirect
}}
"""
"""Before netavark's rules: of several translations the first counts."""


class Guard:
    """The tables. ``program`` is nft; looked for if empty."""

    def __init__(self, program: str = "") -> None:
        self._program = program or shutil.which("nft") or ""

    def check(self) -> None:
        """Raise `UnavailableError` where there is no nft, for networks after which `forget` is needed."""
        if not self._program:
            raise UnavailableError(
                "a network on a bridge that was there before it needs the program nft, which is not installed",
                hint="install nftables",
            )

    async def close(self, network: Network, local: Collection[int] = ()) -> None:
        """Let in only what is published.

        Connections to ``local`` ports of ``[::1]`` go to sockets of this machine, whatever netavark says (see `relay.py`).
        Idempotent. Raises `UnavailableError` in nft's words.
        """
        if network.driver != BRIDGE:
            return
        name = table_of(network)
        rules = "\n".join(rule.format(network.interface) for rule in _RULES[network.internal])
        await self._apply(
            f"add table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n"
            f"chain forward {{\ntype filter hook forward priority filter; policy accept;\n{rules}\n}}\n"
            f"{_LOCAL.format(', '.join(map(str, sorted(local)))) if local else ''}}}\n"
        )

    async def open(self, network: Network) -> None:
        """Take the table of a network away that nobody uses any more. Idempotent."""
        if network.driver == BRIDGE:
            name = table_of(network)
            await self._apply(f"add table inet {name}\ndelete table inet {name}\n")

    async def sweep(self, unused: Collection[Network]) -> None:
        """Take away the tables that a killed daemon left for networks that nobody uses."""
        if not unused:
            return
        listed = await self._list("tables")
        there = {each["table"]["name"] for each in listed if "table" in each}
        for network in unused:
            if table_of(network) in there:
                await self.open(network)

    async def forget(self, interface: str) -> None:
        """Take away netavark's rules that name a bridge, for one that stays: netavark does so only when it deletes the bridge."""
        rules = [each["rule"] for each in await self._list("table", *_NETAVARK) if "rule" in each]
        await self._apply(
            "".join(
                f"delete rule {' '.join(_NETAVARK)} {rule['chain']} handle {rule['handle']}\n"
                for rule in rules
                if any(_names(each, interface) for each in rule["expr"])
            )
        )

    async def _list(self, *what: str) -> list[dict[str, Any]]:
        """Tables, or what is in one; nothing if it is not there, or cannot be told."""
        if not self._program:
            return []
        done = await anyio.run_process([self._program, "-j", "list", *what], check=False)
        try:
            return json.loads(done.stdout)["nftables"]
        except (ValueError, KeyError):
            return []

    async def _apply(self, script: str) -> None:
        if not self._program:
            return
        done = await anyio.run_process([self._program, "-f", "-"], input=script.encode(), check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()[:500]
            raise UnavailableError(f"nft: {reason}", hint="the daemon needs CAP_NET_ADMIN and nf_tables")


def _names(statement: dict[str, Any], interface: str) -> bool:
    """Whether it is a match of the interface by which a packet comes or goes."""
    match = statement.get("match", {})
    left = match.get("left")
    return isinstance(left, dict) and "meta" in left and match.get("right") == interface


def table_of(network: Network) -> str:
    """The table's name."""
    return f"{_PREFIX}{network.id[:12]}"
