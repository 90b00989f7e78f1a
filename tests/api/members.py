"""Members of a cluster as their core's state, and the real server that answers for one."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

from aiohttp import web

from pgregent.api import server
from pgregent.api.access import Access
from pgregent.api.cluster import Cluster
from pgregent.api.node import Node
from pgregent.core.types import (
    Durable,
    Incarnation,
    PgState,
    Position,
    Postgres,
    Record,
    Register,
    Rule,
    Settings,
    Term,
    Walsender,
)
from pgregent.core.view import Peer, State

LOOPBACK = "127.0.0.1"
NOW = 1000.0
EPOCH = 1_700_000_000.0
END = 0x5000100
SYSTEM_ID = "7252327498286490579"
N1, N2, N3 = (Incarnation(name, f"{name}id") for name in ("n1", "n2", "n3"))

REGISTER = Register(
    seq=7,
    round=2,
    term=3,
    primary=N1,
    rules=(Rule(N1, 1, (N2,)),),
    electing=False,
    system_id=SYSTEM_ID,
    terms=(
        Term(1, N2, 0, 0, "n2 created the cluster", EPOCH - 2000),
        Term(3, N1, 1, 0x3000060, "n2 was killed", EPOCH - 1000),
    ),
    why="n2 was killed",
)


def record(me: Incarnation, postgres: Postgres, **more: Any) -> Record:
    """What a member told the others."""
    return Record(
        incarnation=me,
        beat=5,
        state=postgres.state,
        position=postgres.position,
        replay_lsn=postgres.replay_lsn,
        streaming=postgres.streaming,
        register=REGISTER,
        host=LOOPBACK,
        port=5432,
        api_url=f"http://{LOOPBACK}:8008/patroni",
        **more,
    )


PRIMARY = Postgres(
    PgState.PRIMARY,
    position=Position(3, END),
    replay_lsn=END,
    walsenders=(Walsender(N2.label, True, END - 256), Walsender("pg_receivewal", False, 0)),
    answered_at=NOW,
    system_id=SYSTEM_ID,
)
STANDBY = Postgres(
    PgState.STANDBY,
    position=Position(3, END - 256),
    replay_lsn=END - 512,
    streaming=True,
    upstream_timeline=3,
    answered_at=NOW,
    system_id=SYSTEM_ID,
)


def state(me: Incarnation, postgres: Postgres, **settings: Any) -> State:
    """A member that knows of the others."""
    made = State(
        Settings(me.name, host=LOOPBACK, port=5432, api_url="http://x/patroni", **settings),
        Durable(me, REGISTER),
        started_at=0.0,
        now=NOW,
        epoch=EPOCH,
        postgres=postgres,
        read_at=NOW - 0.5,
        dcs_ok=True,
        why="all is well",
    )
    for other in {N1, N2, N3} - {me}:
        told = record(other, PRIMARY if other == N1 else STANDBY, serving=other == N1)
        made.peers[other.name] = Peer(record=told, heard_at=NOW - 0.1)
    return made


def primary(**settings: Any) -> State:
    """n1, which serves."""
    made = state(N1, PRIMARY, **settings)
    made.opened = True
    return made


def standby(me: Incarnation = N2, postgres: Postgres = STANDBY, **settings: Any) -> State:
    """n2, which the rule names, or n3, which it does not."""
    return state(me, postgres, **settings)


def with_register(made: State, **changes: Any) -> State:
    """The same with another register."""
    made.durable = replace(made.durable, register=replace(REGISTER, **changes))
    return made


def node(made: State, *, late: float = 0.0, mode: str = "quorum", **more: Any) -> Node:
    """`late`: seconds since the core's last event."""
    return Node(made, "demo", lambda: NOW + late, synchronous_mode=mode, **more)


@contextlib.asynccontextmanager
async def served(
    subject: Node,
    more: Iterable[web.RouteDef] = (),
    access: Access | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """The port on which the real server answers for it."""
    routes = [*more, *server.routes(subject), *Cluster(subject, None).routes()]
    ready = server.runner(server.application(routes, access))
    await ready.setup()
    try:
        await server.listen(ready, LOOPBACK, 0, tls)
        yield ready.addresses[0][1]
    finally:
        await ready.cleanup()
