"""Which checks a member passes, over HTTP, in every situation that it can be in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from pgregent.api import health
from pgregent.api.node import Node
from pgregent.core.effects import Clone, Stop
from pgregent.core.types import PgState, Position, Postgres
from pgregent.core.view import State
from tests.api.members import (
    END,
    LOOPBACK,
    N1,
    N2,
    N3,
    NOW,
    PRIMARY,
    STANDBY,
    node,
    primary,
    record,
    served,
    standby,
    state,
    with_register,
)

CHECKS = sorted(health.PATHS | {"/liveness", "/readiness"})
WRITES = {"/", "/primary", "/master", "/read-write", "/leader"}
READS = {"/read-only", "/read-only-sync", "/read-only-synchronous", "/read-only-quorum"}
UP = {"/health", "/liveness"}
SERVES = WRITES | READS | UP | {"/readiness"}
IN_QUORUM = UP | {"/replica", "/read-only", "/quorum", "/read-only-quorum", "/readiness"}
IN_SYNC = UP | {"/replica", "/read-only", "/sync", "/synchronous", "/readiness"}
IN_SYNC |= {"/read-only-sync", "/read-only-synchronous"}
ASYNC = UP | {"/replica", "/read-only", "/async", "/asynchronous", "/readiness"}


def changed(made: State, **changes: Any) -> State:
    for key, value in changes.items():
        setattr(made, key, value)
    return made


SITUATIONS: dict[str, tuple[Callable[[], Node], set[str]]] = {
    "primary serves": (lambda: node(primary()), SERVES),
    "primary serves without the DCS, by grants": (
        lambda: node(
            with_granted(changed(primary(), read_at=NOW - 60, dcs_ok=False)),
        ),
        SERVES,
    ),
    "primary: an election": (lambda: node(with_register(primary(), electing=True)), UP),
    "primary: no authority": (lambda: node(changed(primary(), read_at=NOW - 6)), UP),
    "primary: authority ran out since the last event": (
        lambda: node(changed(primary(), read_at=NOW - 4), late=2.0),
        UP,
    ),
    "primary: not opened yet": (lambda: node(changed(primary(), opened=False)), UP),
    "primary: held for a switchover": (lambda: node(changed(primary(), holding=True)), UP),
    "primary: killed": (
        lambda: node(changed(primary(), postgres=Postgres(PgState.STOPPED))),
        {"/liveness"},
    ),
    "primary: starts again": (
        lambda: node(changed(primary(), postgres=Postgres(PgState.STARTING))),
        {"/liveness"},
    ),
    "primary: does not answer": (
        lambda: node(changed(primary(), postgres=Postgres(PgState.UNKNOWN))),
        {"/liveness"},
    ),
    "primary: superseded": (lambda: node(with_register(primary(), term=4, primary=N2)), UP),
    "primary: made anew under the name": (
        lambda: node(with_register(primary(), primary=replace(N1, id="another"))),
        UP,
    ),
    "primary: the agent's loop stands": (lambda: node(primary(), late=4.0), set()),
    "appointed, not promoted yet": (
        lambda: node(with_register(standby(), term=4, primary=N2, rules=())),
        ASYNC,
    ),
    "standby in the rule, quorum": (lambda: node(standby()), IN_QUORUM),
    "standby in the rule, on": (lambda: node(standby(), mode="on"), IN_SYNC),
    "standby outside the rule": (lambda: node(standby(N3)), ASYNC),
    "standby made anew under the name": (
        lambda: node(state(replace(N2, id="another"), STANDBY)),
        ASYNC,
    ),
    "standby is not load-balanced": (
        lambda: node(standby(noloadbalance=True)),
        UP | {"/readiness"},
    ),
    "standby lags by more than the maximum": (
        lambda: node(standby(postgres=replace(STANDBY, replay_lsn=END - 2 * 1048576))),
        IN_QUORUM - {"/readiness"},
    ),
    "standby does not stream": (
        lambda: node(standby(postgres=replace(STANDBY, streaming=False))),
        IN_QUORUM - {"/readiness"},
    ),
    "standby never heard of the primary": (
        lambda: node(without_primary(standby())),
        IN_QUORUM - {"/readiness"},
    ),
    "standby during an election": (
        lambda: node(with_register(standby(), electing=True)),
        IN_QUORUM,
    ),
    "standby has to be rewound": (lambda: node(changed(standby(), needs_rewind=3)), UP),
    "standby of another cluster": (
        lambda: node(standby(postgres=replace(STANDBY, system_id="1"))),
        UP,
    ),
    "standby is being stopped": (
        lambda: node(changed(standby(), pg=Stop(immediate=False))),
        {"/liveness"},
    ),
    "standby is being cloned": (
        lambda: node(changed(standby(), pg=Clone(N1, 3), postgres=Postgres(PgState.ABSENT))),
        {"/liveness"},
    ),
    "standby: the agent's loop stands": (lambda: node(standby(), late=4.0), set()),
    "nothing is known yet": (
        lambda: node(changed(state(N1, Postgres()), read_at=float("-inf"))),
        {"/liveness"},
    ),
}


def with_granted(made: State) -> State:
    peer = made.peers["n2"]
    peer.granted_at, peer.granted_term = NOW - 0.1, 3
    return made


def without_primary(made: State) -> State:
    made.peers["n1"].record = None
    return made


async def codes(subject: Node, paths: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    async with served(subject) as port, aiohttp.ClientSession() as session:
        for path in paths:
            async with session.get(f"http://{LOOPBACK}:{port}{path}") as answer:
                found[path] = answer.status
    return found


@pytest.mark.parametrize("situation", SITUATIONS)
async def test_each_check_in_each_situation(situation: str) -> None:
    make, passes = SITUATIONS[situation]
    expected = {path: 200 if path in passes else 503 for path in CHECKS}
    assert await codes(make(), CHECKS) == expected


LAG = 512
"""What the standby has not replayed; it has received all but 256 bytes."""


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("/replica?lag=512", 200),
        ("/replica?lag=511", 503),
        ("/replica?lag=512B", 200),
        ("/replica?lag=1kB", 200),
        ("/replica?lag=0.5kB", 200),
        ("/replica?lag=0.4kB", 503),
        ("/replica?lag=16kB", 200),
        ("/replica?lag=1MB", 200),
        ("/replica?lag=1GB", 200),
        ("/replica?lag=0", 503),
        ("/replica/?lag=511", 503),
        ("/quorum?lag=511", 503),
        ("/read-only?lag=511", 503),
        ("/replica?lag=16KB", 400),
        ("/replica?lag=-1", 400),
        ("/replica?lag=", 400),
        ("/replica?lag=much", 400),
        ("/readiness?lag=much", 400),
        ("/primary?lag=much", 503),
        ("/replica?replication_state=streaming", 200),
        ("/replica?replication_state=in%20archive%20recovery", 503),
        ("/replica?tag_zone=a", 200),
        ("/replica?tag_zone=b", 503),
        ("/replica?tag_zone=a&tag_clonefrom=true", 200),
        ("/replica?tag_clonefrom=True", 503),
        ("/replica?tag_nosync=false", 503),
        ("/replica?tag_priority=0", 200),
        ("/replica?tag_unheard=a", 503),
        ("/health?tag_zone=b", 503),
        ("/replica?unheard=1", 200),
        ("/readiness?lag=511", 503),
        ("/readiness?lag=512", 200),
        ("/readiness?lag=511&mode=apply", 503),
        ("/readiness?lag=511&mode=write", 200),
        ("/readiness?lag=255&mode=write", 503),
        ("/readiness?mode=flush", 400),
    ],
)
async def test_what_a_check_may_ask_for(asked: str, code: int) -> None:
    tags = {"zone": "a", "clonefrom": True, "nosync": False, "priority": 0}
    subject = node(standby(), tags=tags)
    assert subject.lag() == LAG
    assert await codes(subject, [asked]) == {asked: code}


async def test_parameters_of_a_primary() -> None:
    asked = {
        "/primary?tag_zone=b": 200,
        "/primary?lag=much": 200,
        "/read-only?lag=0": 200,
        "/read-only?tag_zone=b": 503,
        "/read-only?lag=much": 400,
    }
    assert await codes(node(primary(), tags={"zone": "a"}), list(asked)) == asked


async def test_lag_is_not_known_without_the_primarys_word() -> None:
    asked = {"/replica": 200, "/replica?lag=1TB": 503}
    assert await codes(node(without_primary(standby())), list(asked)) == asked


async def test_readiness_goes_by_the_configured_maximum() -> None:
    assert await codes(node(standby(), maximum_lag=511), ["/readiness"]) == {"/readiness": 503}
    assert await codes(node(standby(), maximum_lag=512), ["/readiness"]) == {"/readiness": 200}


def test_the_record_of_another_incarnation_says_nothing_of_the_primary() -> None:
    made = standby()
    other = replace(PRIMARY, position=Position(3, END * 2))
    made.peers["n1"].record = record(replace(N1, id="another"), other)
    assert node(made).lag() is None
