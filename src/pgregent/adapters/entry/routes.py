"""Which server a client of the entry point goes to, and which sessions may go on. No I/O."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from pgregent.adapters.entry.sockets import Address


class Port(Enum):
    """The entry point's two ports."""

    RW = "read-write"
    RO = "read-only"


@dataclass(frozen=True, slots=True)
class Routes:
    """Where clients go. A server that restarts must leave the routes first: while it is in them,
    held clients are let in as soon as it accepts connections."""

    primary: Address | None
    """Takes read-write sessions; None: new ones are held and existing ones stay (see `cut`)."""
    term: int
    """In which `primary` serves; another term cuts every read-write session."""
    standbys: tuple[Address, ...] = ()
    reason: str = ""
    """One sentence for the clients that are held in vain: why there is no primary."""
    cut: bool = False
    """With `primary` None: end the sessions of the former primary too."""


class RouteTable:
    """The routes, with what is known of each server: its sessions, and when it refused lately."""

    def __init__(self, failure_seconds: float) -> None:
        self.routes = Routes(None, 0, reason="The entry point has just started.")
        self._failure_seconds = failure_seconds
        self._office: tuple[Address, int] | None = None
        self._failures: dict[Address, tuple[float, str]] = {}
        self._load = {port: Counter[Address]() for port in Port}

    def change(self, routes: Routes) -> None:
        """Take over new routes."""
        if routes.primary is not None:
            self._office = (routes.primary, routes.term)
        elif routes.cut or (self._office is not None and self._office[1] != routes.term):
            self._office = None
        self.routes = routes
        self._failures.clear()

    def pick(self, port: Port, now: float) -> Address | None:
        """The server for the next client: one that did not refuse lately, if any."""
        routes = self.routes
        if port is Port.RW:
            return routes.primary
        primary = () if routes.primary is None else (routes.primary,)
        for group in (routes.standbys, primary):
            well = [address for address in group if not self.failing(address, now)]
            if well:
                return min(well, key=self._load[port].__getitem__)
        return next(iter((*routes.standbys, *primary)), None)

    def fits(self, port: Port, server: Address, term: int) -> bool:
        """Whether a session that was begun for `term` may begin on `server` now."""
        routes = self.routes
        if port is Port.RW:
            return (server, term) == (routes.primary, routes.term)
        return server in routes.standbys or server == routes.primary

    def may_stay(self, port: Port, server: Address, term: int) -> bool:
        """Whether an existing session may go on. While nobody holds the office, the last primary
        may be back in the same term."""
        if port is Port.RW:
            return (server, term) == self._office
        in_office = self._office is not None and server == self._office[0]
        return in_office or server in self.routes.standbys

    def occupy(self, port: Port, server: Address, change: int) -> None:
        """One client more (1) or less (-1)."""
        load = self._load[port]
        load[server] += change
        if not load[server]:
            del load[server]

    def servers(self, port: Port) -> set[Address]:
        """Every server that holds clients of the port or may get the next one."""
        routes = self.routes
        routed = {routes.primary} if port is Port.RW else {routes.primary, *routes.standbys}
        return {address for address in routed if address is not None} | set(self._load[port])

    def failed(self, server: Address, now: float, why: str) -> None:
        """It refused, or did not answer."""
        self._failures[server] = (now, why)

    def answered(self, server: Address) -> None:
        """It did."""
        self._failures.pop(server, None)

    def failing(self, server: Address, now: float) -> bool:
        """Whether it refused within the last `failure_seconds`."""
        failure = self._failures.get(server)
        return failure is not None and now - failure[0] < self._failure_seconds

    def why_held(self, port: Port) -> str:
        """One sentence for a client that got no server."""
        routes = self.routes
        server = routes.primary if port is Port.RW else next(iter(routes.standbys), routes.primary)
        if server is None:
            return routes.reason
        failure = self._failures.get(server)
        what = failure[1] if failure else "no answer"
        return f"{server[0]}:{server[1]} does not accept connections: {what}."
