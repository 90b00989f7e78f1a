"""The channel between agents: each broadcasts its newest state, and hears that of the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Evidence(Enum):
    """What the end of a connection says about the peer."""

    PEER_CLOSED = "peer closed"
    """FIN or RST from the peer's kernel: most likely its process died. Act on it only after a
    fresh connect has failed too; a node that was frozen sees this of every peer when it thaws."""
    PEER_LEFT = "peer left"
    """The peer's process said that it closes: it is alive, or stops in good order."""
    LOCAL = "local"
    """We closed it: peer removed, replaced by a newer connection, or protocol broken."""
    TIMEOUT = "timeout"
    """We closed it after seconds in which nothing came, or nothing could be sent."""


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """The peer `name` proved that it holds the key. Alternates with PeerClosed for each name."""

    name: str


@dataclass(frozen=True, slots=True)
class PeerMessage:
    """A payload of the peer; `received_at` is time.monotonic() in seconds.

    After this process or the peer was frozen, older payloads can arrive late: an answer counts
    from the time that the payload itself names, not from `received_at`.
    """

    name: str
    payload: bytes
    received_at: float


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The connection to the peer ended; `reason` is one sentence for people."""

    name: str
    evidence: Evidence
    reason: str = ""


PeerEvent = PeerConnected | PeerMessage | PeerClosed
OnEvent = Callable[[PeerEvent], None]
"""Called on the event loop, also from within set_peers and close; returns at once, never raises."""


class Peers(Protocol):
    """Latest-state broadcast. Nothing here blocks on a peer, and nothing queues for a slow one."""

    def set_peers(self, peers: Mapping[str, tuple[str, int]]) -> None:
        """Replace the set of peers: name -> (host, port). Callable at any time, from the loop."""
        ...

    def publish(self, payload: bytes) -> None:
        """Send `payload` to every connection now, and to later ones as they come.

        A newer payload replaces one not sent yet. Raises Bug above the maximum frame size.
        """
        ...

    def reasons(self) -> Mapping[str, str]:
        """Tell for each peer that is not connected why, in one sentence."""
        ...

    async def start(self) -> None:
        """Begin to dial; before this, nothing is sent or accepted."""
        ...

    async def close(self) -> None:
        """Say goodbye to every peer and free everything, within about a second."""
        ...
