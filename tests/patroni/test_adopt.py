"""A cluster of Patroni's comes over, fails over, goes back, and nothing is made anew."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.cluster.checkers import lost_or_repeated, outage
from tests.cluster.faults import kill_node
from tests.cluster.processes import wait_for
from tests.cluster.writers import CREATE, ENTRY, TABLE, Pace, Writers
from tests.conformance import etcd_servers, zookeeper_servers
from tests.patroni.patroni_pair import PatroniPair

SLOTS = "SELECT slot_name::text FROM pg_replication_slots WHERE active ORDER BY 1"
ROLES = "SELECT rolname::text, rolsuper FROM pg_roles WHERE rolcanlogin ORDER BY 1"
SYSTEM_ID = "SELECT system_identifier FROM pg_control_system()"
SOON_S = 30.0


@pytest.fixture
def pair(bin_dir: Path) -> Iterator[PatroniPair]:
    zookeeper_servers.skip_if_missing()
    with PatroniPair(bin_dir) as made:
        yield made


@pytest.fixture
def etcd_pair(bin_dir: Path) -> Iterator[PatroniPair]:
    etcd_servers.skip_if_missing()
    with PatroniPair(bin_dir, etcd=True) as made:
        yield made


class Told:
    """What the writers' silence was, printed."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    def during(self, what: str, work: Callable[[], object]) -> None:
        """Do it, and wait until something is acknowledged that was begun after it."""
        began = time.monotonic()
        work()
        done = time.monotonic()
        wait_for(
            f"writes after: {what}",
            lambda: self._writers.acknowledged_since(done) > 5,
            timeout=SOON_S,
        )
        seen = outage(self._writers.history, ENTRY, began, time.monotonic())
        print(f"{what}: nothing was acknowledged for {seen.gap:.2f} s")


def directories(pair: PatroniPair) -> dict[str, int]:
    """What would be other if a data directory had been made anew."""
    return {name: member.data_dir.stat().st_ino for name, member in pair.members.items()}


def copied_at(pair: PatroniPair) -> dict[str, int]:
    """What would be other if it had been rewound, too."""
    files = {name: m.data_dir / "PG_VERSION" for name, m in pair.members.items()}
    return {name: file.stat().st_mtime_ns for name, file in files.items()}


def done(pair: PatroniPair, command: str, name: str) -> None:
    ended = pair.ours(command, name)
    assert ended.code == 0, f"{ended.message}\n{pair.tail()}"
    print(f"{command} {name}: {ended.out.strip()}")


def take_over(pair: PatroniPair, primary: str, standby: str) -> None:
    """As the walk-through says."""
    refused = pair.ours("adopt", primary)
    assert refused.code == 2 and "Patroni still runs in this scope" in refused.err, refused.message
    pair.patronictl("pause", pair.scope(), "--wait")
    pair.stop_patroni()
    done(pair, "adopt", primary)
    done(pair, "adopt", standby)


def start_agents(pair: PatroniPair, primary: str, standby: str) -> None:
    pair.start_agent(primary)
    wait_for(
        f"{primary}'s agent is in office",
        lambda: pair.value("leader") == primary,
        timeout=SOON_S,
    )
    # What it streams through is not dropped while it is not connected.
    assert (standby,) in pair.query(primary, "SELECT slot_name::text FROM pg_replication_slots")
    pair.start_agent(standby)
    assert pair.wait_healthy() == primary


def give_back(pair: PatroniPair, primary: str, standby: str) -> None:
    pair.stop_agents([standby])
    pair.stop_agents([primary])
    done(pair, "release", primary)
    forgotten = pair.ours("agent", standby)
    assert forgotten.code == 2, forgotten.message
    assert "was given back to Patroni" in forgotten.err
    done(pair, "release", standby)
    for name in (primary, standby):
        left = [p for p in pair.members[name].data_dir.iterdir() if "pgregent" in p.name]
        assert not left
    pair.start_patroni(primary)
    pair.until_leader(primary)
    pair.start_patroni(standby)
    pair.until_streaming(primary, standby)


def test_over_and_back(pair: PatroniPair) -> None:
    primary, standby = pair.members
    with psycopg.connect(pair.dsn, autocommit=True) as conn:
        conn.execute(CREATE)
        conn.execute("CREATE ROLE app LOGIN")
    slots, roles = (pair.query(primary, q) for q in (SLOTS, ROLES))
    before, identity = directories(pair), pair.query(primary, SYSTEM_ID)
    copied = copied_at(pair)
    assert slots == [(standby,)]
    with Writers(pair.dsn, through_entry=1, pace=Pace(query_timeout=10.0)) as writers:
        told = Told(writers)
        take_over(pair, primary, standby)
        pair.follow_events()
        told.during("adopted", lambda: start_agents(pair, primary, standby))
        assert (directories(pair), copied_at(pair)) == (before, copied)
        assert pair.query(primary, SYSTEM_ID) == identity
        assert (pair.query(primary, SLOTS), pair.query(primary, ROLES)) == (slots, roles)
        assert "pause" not in pair.patronictl("show-config", pair.scope())
        told.during(f"{primary} killed", lambda: kill_node(pair, primary))
        pair.start_stopped()
        assert pair.wait_healthy() == standby
        told.during("given back", lambda: give_back(pair, standby, primary))
    assert directories(pair) == before, "a data directory was made anew"
    assert not pair.events.named("rejoin", how="clone")
    rows = pair.query(standby, f"SELECT key FROM {TABLE}")
    assert not lost_or_repeated(writers.history, [row[0] for row in rows])
    assert (pair.query(standby, SYSTEM_ID), pair.query(standby, ROLES)) == (identity, roles)
    # Once more, without a pause: Patroni stops PostgreSQL, and its files tell where its log ends.
    pair.end_patroni([primary])
    pair.stop_patroni()
    done(pair, "adopt", standby)
    done(pair, "adopt", primary)
    start_agents(pair, standby, primary)
    assert directories(pair) == before, "a data directory was made anew"
    assert sorted(pair.query(standby, f"SELECT key FROM {TABLE}")) == sorted(rows)


def test_over_on_etcd(etcd_pair: PatroniPair) -> None:
    pair = etcd_pair
    primary, standby = pair.members
    with psycopg.connect(pair.dsn, autocommit=True) as conn:
        conn.execute(CREATE)
    before = directories(pair), copied_at(pair), pair.query(primary, SLOTS)
    with Writers(pair.dsn, through_entry=1, pace=Pace(query_timeout=10.0)) as writers:
        take_over(pair, primary, standby)
        pair.follow_events()
        Told(writers).during("adopted", lambda: start_agents(pair, primary, standby))
    assert (directories(pair), copied_at(pair), pair.query(primary, SLOTS)) == before
    rows = pair.query(primary, f"SELECT key FROM {TABLE}")
    assert not lost_or_repeated(writers.history, [row[0] for row in rows])
