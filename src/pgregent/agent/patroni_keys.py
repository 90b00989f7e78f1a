"""Keeps Patroni's keys in the DCS, beside the register, as its tools expect to find them.

They decide nothing. Every member has its own under members/; the others are the primary's, and are
stored in one transaction with a look at the register: only while that says that it is in office.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pgregent.agent import patroni_documents as documents
from pgregent.agent.codec import decode
from pgregent.agent.loop import Keys
from pgregent.agent.patroni_request import requested
from pgregent.agent.patroni_word import Entries, running
from pgregent.api import patroni
from pgregent.api.node import Node
from pgregent.core.effects import Announce
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Event
from pgregent.core.types import Register
from pgregent.ports.dcs import Dcs
from pgregent.ports.patroni_keys import Found, Guard, HasPatroniKeys, PatroniKeys

ROUND_S = 1.0
"""Seconds after which the keys are looked at again: whether they are still there."""
AGAIN_S = 0.2
POLL_S = 0.05
LEAVE_S = 0.5
POSITIONS_S = 5.0
"""Seconds between writes of a key of which only WAL positions have changed."""

log = logging.getLogger("pgregent")


@dataclass(frozen=True, slots=True)
class _Written:
    value: bytes
    settled: Any
    at: float


class PatroniKeeper:
    """`post` tells the core what was requested, `announce` tells people what was refused."""

    def __init__(
        self,
        keys: PatroniKeys,
        dcs: Dcs,
        place: Keys,
        node: Node,
        *,
        post: Callable[[Event], None],
        announce: Callable[[Announce], None],
    ) -> None:
        self._keys = keys
        self._dcs = dcs
        self._register = place.register
        self._node = node
        self._post = post
        self._announce = announce
        base = _base(place)
        self._member = f"{base}/members/{node.state.me.name}"
        self._leader = f"{base}/leader"
        self._failover = f"{base}/failover"
        self._documents: dict[str, Callable[[], Any]] = {
            self._leader: lambda: node.state.me.name,
            f"{base}/initialize": lambda: node.state.postgres.system_id,
            f"{base}/sync": lambda: documents.sync(node),
            f"{base}/status": lambda: documents.status(node),
            f"{base}/history": lambda: patroni.history(node),
        }
        self._all = (self._failover, self._member, *self._documents)
        self._written: dict[str, _Written] = {}
        self._fails = False

    async def run(self) -> None:
        """Until cancelled. A DCS that is away is said once."""
        while True:
            seen = self._moment()
            whole = False
            try:
                whole = await self._round()
                self._fails = False
            except (Unavailable, Refused) as error:
                if not self._fails:
                    log.warning("Patroni's keys in the DCS are not up to date: %s", error)
                self._fails = True
            except Exception:
                log.exception("Patroni's keys in the DCS are not up to date")
            await self._rest(seen, ROUND_S if whole else AGAIN_S)

    async def leave(self) -> None:
        """Remove what would vanish with this agent, if that can be done soon: the next agent may
        have to take PostgreSQL over before its authority runs out."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                found = await self._keys.read(self._all)
                if self._is_patronis(found):
                    return
                await self._drop_leader(found)
                if (own := found.get(self._member)) is not None:
                    await self._keys.remove(self._member, own)

    def _moment(self) -> tuple[object, ...]:
        """What is told at once when it changes."""
        node, state = self._node, self._node.state
        position, register = state.postgres.position, state.register
        return (
            node.serving,
            node.pg_state,
            node.role,
            node.replication_state,
            position.timeline if position is not None else 0,
            register.rules if register is not None else (),
        )

    async def _rest(self, seen: tuple[object, ...], seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            await asyncio.sleep(POLL_S)
            if self._moment() != seen or time.monotonic() >= until:
                return

    async def _round(self) -> bool:
        """Whether all is as it has to be. Raises Unavailable."""
        found = await self._keys.read(self._all)
        if self._is_patronis(found):
            raise Refused(f"Patroni runs as {self._member}: stop it, or this agent")
        if not self._node.serving:
            await self._drop_leader(found)
            return await self._keep_member(found)
        whole = await self._keep_member(found)
        if self._node.serving and (asked := found.get(self._failover)):
            await self._take_request(asked)
        return await self._keep_primarys(found) and whole

    def _is_patronis(self, found: Mapping[str, Found]) -> bool:
        """Whether this member's key is a Patroni's, whose `leader` has the same name, too."""
        own = found.get(self._member)
        return own is not None and documents.is_patronis(own.value)

    async def _drop_leader(self, found: Mapping[str, Found]) -> None:
        """If it names this member: an agent that died may have left it."""
        old = found.get(self._leader)
        if old is not None and old.value == self._node.state.me.name.encode():
            await self._keys.remove(self._leader, old)

    async def _keep_member(self, found: Mapping[str, Found]) -> bool:
        document, old = documents.member(self._node), found.get(self._member)
        if not self._is_due(self._member, document, old, True):
            return True
        value = documents.text(document).encode()
        done = await self._keys.put(self._member, value, old, ephemeral=True)
        return self._noted(self._member, document, done)

    async def _keep_primarys(self, found: Mapping[str, Found]) -> bool:
        due = {
            key: document
            for key, make in self._documents.items()
            if self._is_due(key, document := make(), found.get(key), key == self._leader)
        }
        guard = await self._in_office() if due else None
        for key, document in due.items():
            if guard is None or not self._node.serving:
                return False
            value, ephemeral = documents.text(document).encode(), key == self._leader
            done = await self._keys.put(
                key, value, found.get(key), ephemeral=ephemeral, guard=guard
            )
            if not self._noted(key, document, done):
                return False
        return True

    def _is_due(self, key: str, document: Any, found: Found | None, ephemeral: bool) -> bool:
        """Whether it has to be stored now."""
        value = documents.text(document).encode()
        if found is None or (ephemeral and not found.held):
            return bool(value)
        if found.value == value:
            return False
        last = self._written.get(key)
        if last is None or found.value != last.value or last.settled != documents.settled(document):
            return bool(value)
        return time.monotonic() - last.at >= POSITIONS_S

    def _noted(self, key: str, document: Any, done: bool) -> bool:
        if done:
            value = documents.text(document).encode()
            self._written[key] = _Written(value, documents.settled(document), time.monotonic())
        return done

    async def _in_office(self) -> Guard | None:
        """The register, if it says that this member is the primary. Raises Unavailable, Refused."""
        entry = (await self._dcs.read(self._register)).get(self._register)
        if entry is None:
            return None
        register = decode(Register, entry.value, f"the DCS key {self._register}")
        mine = register.primary == self._node.state.me and not register.electing
        return Guard(self._register, entry.version) if mine else None

    async def _take_request(self, found: Found) -> None:
        """Have what is requested in the key `failover` done, or say why not; never twice."""
        if not await self._keys.remove(self._failover, found):
            return
        state = self._node.state
        try:
            event = requested(state, found.value)
        except Refused as refused:
            term = state.register.term if state.register is not None else 0
            why = f"the request in the DCS key {self._failover}: {refused}"
            self._announce(Announce("refused", why, term))
            return
        if event is not None:
            self._post(event)


def patroni_keeper(
    dcs: Dcs,
    place: Keys,
    node: Node,
    *,
    post: Callable[[Event], None],
    announce: Callable[[Announce], None],
) -> PatroniKeeper | None:
    """None for a DCS that nothing of Patroni's reads."""
    if not isinstance(dcs, HasPatroniKeys):
        return None
    keys = dcs.patroni_keys(math.ceil(node.state.settings.lease))
    return PatroniKeeper(keys, dcs, place, node, post=post, announce=announce)


async def refuse_beside_patroni(dcs: Dcs, place: Keys, *, in_hand: bool = False) -> Entries:
    """All keys of this scope. Raises Refused where a Patroni runs in it.

    Its `leader` and its members' keys go when it ends. Where there is a register, an agent of ours
    may have left `leader`; and what is `in_hand`, a server under its guard, is not given up for a
    Patroni that came later. A DCS that is away shows none.
    """
    base = _base(place)
    try:
        found = await dcs.read(base)
    except Unavailable:
        return {}
    ours = place.register in found
    theirs = running(found, base, leader_counts=not ours)
    if theirs and not (ours and in_hand):
        raise Refused(
            f"the DCS key {base}: found Patroni running there ({', '.join(theirs)}), expected a "
            "scope without it; stop Patroni on all its members first, or choose another scope"
        )
    return found


def _base(place: Keys) -> str:
    """Where Patroni's keys are: <namespace>/<scope>."""
    return place.prefix.rpartition("/")[0]
