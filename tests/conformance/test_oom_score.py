"""What protects the postmaster from the OOM killer does not protect its children."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgregent.adapters.postgres import sql
from tests.conformance import pg
from tests.conformance.test_reconfigure import members  # noqa: F401 (a fixture)
from tests.conformance.test_settings import Members

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")


OWN = Path("/proc/self/oom_score_adj")


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@contextmanager
def other_score() -> Iterator[int]:
    """A score other than 0 for what this process starts: as OOMScoreAdjust= gives it, or, without
    the right to go below 0, one above it."""
    before = OWN.read_text()
    try:
        try:
            OWN.write_text("-100")
        except PermissionError:
            OWN.write_text("100")
            try:
                OWN.write_text("0")
            except PermissionError:
                pytest.skip("oom_score_adj may not be lowered to 0 here (no CAP_SYS_RESOURCE)")
            OWN.write_text("100")
        yield int(OWN.read_text())
    finally:
        OWN.write_text(before)


async def test_only_guard_and_postmaster_keep_their_score(members: Members) -> None:  # noqa: F811
    with other_score() as score:
        server = await members.add("n1")
        await members.start_primary(server)
        guard, postmaster = server.processes()
        assert guard is not None and postmaster is not None
        client = await sql.connect(sql.Server("127.0.0.1", server.config.port), pg.ADMIN, timeout=5)
        try:
            rows = await client.execute(
                "SELECT pid, backend_type FROM pg_stat_activity"
                " WHERE backend_type IN ('client backend', 'checkpointer', 'walwriter')"
            )
            scores = {row["backend_type"]: score_of(row["pid"]) for row in await rows.fetchall()}
            assert scores == {"client backend": 0, "checkpointer": 0, "walwriter": 0}
            assert (score_of(guard), score_of(postmaster)) == (score, score)
        finally:
            await sql.close(client)
