"""Steers a running HAProxy, made by `haproxy.render`, through its runtime API."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from enum import Enum

from pgregent.adapters.entry.haproxy import PRIMARY, REPLICA, WATCH_TABLE, Node, socket_address
from pgregent.adapters.entry.routes import Port, Routes, RouteTable
from pgregent.adapters.entry.sockets import Address
from pgregent.core.errors import Unavailable

log = logging.getLogger("pgregent")

REFRESH_S = 0.25
"""How often the word is given again: far more often than the table's entries expire."""
RETRY_S = 0.02
SETTLE_S = 0.02
TIMEOUT_S = 2.0


class Word(Enum):
    """What is said of a server; the value is the answer that its checks get."""

    UP = 200
    PAUSED = 404
    """New sessions are held, those there are stay."""
    DOWN = 503
    """Its sessions are cut."""


_HEALTH = {Word.UP: "up", Word.PAUSED: "stopping", Word.DOWN: "down"}


class Runtime:
    """One command line, one connection: so it always reaches the newest process."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._address = socket_address(socket)

    async def run(self, commands: Iterable[str]) -> list[str]:
        """Run the commands; returns the lines of all answers that are not empty.

        Raises Unavailable when HAProxy does not answer within 2 s.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._run(";".join(commands))
        except TimeoutError:
            why = f"no answer within {TIMEOUT_S:g} s"
        except OSError as error:
            why = error.strerror or str(error)
        raise Unavailable("haproxy", f"the runtime API at {self._socket}: {why}")

    async def _run(self, line: str) -> list[str]:
        match self._address:
            case str(path):
                reader, writer = await asyncio.open_unix_connection(path)
            case (host, port):
                reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"{line}\n".encode())
            answer = await reader.read(-1)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return [line for line in answer.decode(errors="replace").splitlines() if line.strip()]


class HaproxyEntry:
    """Takes routes as the gate does, and makes HAProxy follow them."""

    def __init__(self, nodes: Iterable[Node], socket: str) -> None:
        self._names = {(node.host, node.port): node.name for node in nodes}
        self._runtime = Runtime(socket)
        self._table = RouteTable(0)
        self._term: dict[Address, int] = {}
        """In which each server was the primary last."""
        self._said: dict[str, Word] | None = None
        self._cut: set[str] = set()
        self._changed = asyncio.Event()
        self._trouble = ""

    def set_routes(self, routes: Routes | None) -> None:
        """What holds from now on; None: nothing is known, HAProxy's own checks decide."""
        if routes is None:
            # What happened meanwhile is not known: whose sessions may stay is learned anew.
            self._table, self._term = RouteTable(0), {}
            said = None
        else:
            self._note(routes)
            said = self._words()
        if said != self._said or self._cut:
            self._said = said
            self._changed.set()

    def _note(self, routes: Routes) -> None:
        self._table.change(routes)
        primary, term = routes.primary, routes.term
        if primary is None or primary not in self._names:
            return
        if self._term.setdefault(primary, term) != term:
            # The same server in another term: HAProxy sees no change.
            self._cut.add(f"{PRIMARY}/{self._names[primary]}")
        self._term[primary] = term

    def _words(self) -> dict[str, Word]:
        words: dict[str, Word] = {}
        for address, name in self._names.items():
            standby = address in self._table.routes.standbys
            words[f"{PRIMARY}/{name}"] = self._word(address)
            words[f"{REPLICA}/{name}"] = Word.UP if standby else Word.DOWN
        return words

    def _word(self, address: Address) -> Word:
        if address == self._table.routes.primary:
            return Word.UP
        if not self._term:
            # Nobody was primary since this process started: whose sessions they are is not known.
            return Word.PAUSED
        stays = self._table.may_stay(Port.RW, address, self._term.get(address, -1))
        return Word.PAUSED if stays else Word.DOWN

    async def run(self) -> None:
        """Keep HAProxy at what was said last, whenever it is there."""
        while True:
            # A check that was under way at a change brings an answer of before: say it twice.
            pause = SETTLE_S if self._changed.is_set() else REFRESH_S
            self._changed.clear()
            try:
                await self._apply()
            except Unavailable as error:
                self._report(error.reason)
                self._changed.set()
                await asyncio.sleep(RETRY_S)
            else:
                self._report("")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause)

    async def close(self) -> None:
        """Leave HAProxy to its checks at once."""
        with contextlib.suppress(Unavailable):
            await self._runtime.run([f"clear table {WATCH_TABLE}"])

    async def _apply(self) -> None:
        said, cut = self._said, frozenset(self._cut)
        if said is None:
            await self._command([f"clear table {WATCH_TABLE}"])
        else:
            await self._command([*_table(said), *_cuts(cut), *_states(said)])
        self._cut -= cut

    async def _command(self, commands: list[str]) -> None:
        lines = await self._runtime.run(commands)
        if lines:
            raise Unavailable("haproxy", f"it answered {lines[0]!r}: is its haproxy.cfg ours?")

    def _report(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            log.warning("%s", trouble)
        else:
            log.info("HAProxy answers again")


def _table(said: Mapping[str, Word]) -> list[str]:
    return [
        f"set table {WATCH_TABLE} key /{server} data.gpt0 {word.value}"
        for server, word in said.items()
    ]


def _states(said: Mapping[str, Word]) -> list[str]:
    # The old one first.
    commands: list[str] = []
    for server, word in sorted(said.items(), key=lambda item: -item[1].value):
        commands.append(f"set server {server} health {_HEALTH[word]}")
        if word is Word.DOWN:
            commands += _cuts([server])
    return commands


def _cuts(servers: Iterable[str]) -> list[str]:
    commands: list[str] = []
    for server in servers:
        commands.append(f"shutdown sessions server {server}")
        listener, _, name = server.partition("/")
        if listener == PRIMARY:
            commands.append(f"shutdown sessions server {REPLICA}/{name}:{PRIMARY}")
    return commands
