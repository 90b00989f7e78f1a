"""What a client saw: one record for each thing that it tried."""

from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["ok", "fail", "unknown"]


class Answered(Protocol):
    """What every record tells. Times are time.monotonic() seconds of the one client clock.

    `ok`: acknowledged without a warning. `fail`: surely not committed. `unknown`: all else.
    `timeline` and `node`: who acknowledged, and where the WAL went; None and "" unless `ok`.
    """

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def timeline(self) -> int | None: ...
    @property
    def node(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One insert of one key. `path` is the entry point, or the node that was asked directly."""

    key: int
    path: str
    start: float
    end: float
    outcome: Outcome
    timeline: int | None = None
    detail: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One transaction. `start`: when its decisive statement was sent: COMMIT, or a lone SELECT.

    So an `ok` write became visible between `start` and `end`; an `unknown` one after `start` or
    never. `end` is when the client had its answer or gave up.
    """

    client: int
    start: float
    end: float
    outcome: Outcome
    timeline: int | None = None
    node: str = ""
    detail: str = ""
