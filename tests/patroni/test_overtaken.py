"""Patroni is started on a cluster that is pgregent's still, and makes another host the primary."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.cluster.processes import wait_for
from tests.conformance import etcd_servers
from tests.patroni.patroni_pair import PatroniPair
from tests.patroni.test_adopt import SOON_S, done, start_agents, take_over


@pytest.fixture
def pair(bin_dir: Path) -> Iterator[PatroniPair]:
    etcd_servers.skip_if_missing()
    with PatroniPair(bin_dir, etcd=True) as made:
        yield made


def test_what_patroni_acknowledged_is_not_given_up(pair: PatroniPair) -> None:
    """Its service was left enabled, and the hosts were started again."""
    first, second = pair.members
    take_over(pair, first, second)
    pair.follow_events()
    start_agents(pair, first, second)
    pair.stop_agents([second])
    pair.stop_agents([first])
    pair.start_patroni(second)
    wait_for("Patroni runs", lambda: pair.value(f"members/{second}") is not None, timeout=SOON_S)
    pair.patronictl("failover", pair.scope(), "--candidate", second, "--force")
    pair.until_leader(second)
    with psycopg.connect(pair.direct(second), autocommit=True) as conn:
        conn.execute("CREATE TABLE said AS SELECT 1 AS n")
    wait_for("Patroni tells of it", lambda: pair.value("history") != "[]", timeout=SOON_S)
    pair.stop_patroni()
    for name in (first, second):
        refused = pair.ours("agent", name)
        assert refused.code == 2, refused.message
        assert f"by its keys {second} was made the primary since" in refused.err
    done(pair, "release", second)
    done(pair, "release", first)
    done(pair, "adopt", second)
    start_agents(pair, second, first)
    for name in pair.members:
        assert pair.query(name, "SELECT n FROM said") == [(1,)]
