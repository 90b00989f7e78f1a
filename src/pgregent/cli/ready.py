"""The application's role and database, and the proof that a write through the entry works."""

import asyncio
from contextlib import suppress

import psycopg

from pgregent.adapters.postgres import sql
from pgregent.cli.cluster_dir import APP, HOST, SUPERUSER, ClusterDir
from pgregent.cli.statuses import Statuses
from pgregent.core.errors import Refused, Unavailable

_CONNECT_TIMEOUT_S = 2.0
_WRITE_TIMEOUT_S = 5.0
# Its rows in the catalogs are WAL, so the commit waits for the standbys like any other.
_WRITE = "CREATE TEMP TABLE pgregent_ready () ON COMMIT DROP"


def is_redundant(cluster: ClusterDir, statuses: Statuses) -> bool:
    """Whether commits wait for a standby already, or there is none that they could wait for."""
    register = statuses.best["register"] if statuses.best else None
    rules = register["rules"] if register else ()
    return len(cluster.nodes) == 1 or bool(rules and rules[-1]["k"])


async def make_ready(cluster: ClusterDir, statuses: Statuses) -> str | None:
    """None when the application can write through the entry point, else what is waited for."""
    best = statuses.best
    if best is None:
        return "waiting for the agents to answer"
    if statuses.primary is None or not best.get("serving"):
        return str(best.get("why") or "waiting for a primary")
    with suppress(Refused, Unavailable):
        await _write_as_app(cluster)
        return None
    try:
        await _make_app(cluster, statuses.primary)
        await _write_as_app(cluster)
    except (Refused, Unavailable) as error:
        return f"waiting for a first write: {error}"
    return None


async def _make_app(cluster: ClusterDir, primary: str) -> None:
    server = sql.Server(HOST, cluster.node(primary).port)
    superuser = sql.Credentials(SUPERUSER, cluster.secret("superuser"))
    conn = await sql.connect(server, superuser, timeout=_CONNECT_TIMEOUT_S)
    try:
        await sql.ensure_role(conn, sql.Credentials(APP, cluster.secret(APP)))
        await sql.ensure_database(conn, APP, APP)
    finally:
        await sql.close(conn)


async def _write_as_app(cluster: ClusterDir) -> None:
    conn = await sql.connect(
        sql.Server(HOST, cluster.entry_port),
        sql.Credentials(APP, cluster.secret(APP)),
        timeout=_CONNECT_TIMEOUT_S,
        dbname=APP,
    )
    try:
        write = asyncio.ensure_future(conn.execute(_WRITE))
        # A write that waits for standbys is left alone: cancelling it would wait as well.
        done, _ = await asyncio.wait({write}, timeout=_WRITE_TIMEOUT_S)
        if not done:
            raise Unavailable("entry", f"a write was not accepted within {_WRITE_TIMEOUT_S:g} s")
        try:
            write.result()
        except psycopg.Error as error:
            reason = str(error).strip().partition("\n")[0]
            raise Unavailable("entry", f"a write failed: {reason}") from None
    finally:
        await sql.close(conn)
