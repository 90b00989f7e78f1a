"""The cluster of docs/production.md, made and used as the page says."""

import http.client
import json
import time
import urllib.request
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.cluster.checkers import Attempt, late_acknowledgements, lost_or_repeated, outage
from tests.cluster.processes import wait_for
from tests.cluster.production.hosts import Host, Hosts
from tests.cluster.production.page import RUN, Block
from tests.cluster.writers import CREATE, ENTRY, TABLE, Pace, Writers

PASSWORD = "choose-one"
DATA_DIR = "/var/lib/postgresql/15/main"
WHOLE_S = 60.0
_ASK_S = 2.0
_ENOUGH = 5
# Answers have to end by what the connection string says, not by the writers' own limit.
_PACE = Pace(rate=50.0, connect_timeout=20.0, query_timeout=30.0)
_STANDBY = ("quorum_standby", "streaming")


class Demo:
    """Three hosts, and which blocks of the page were not run yet."""

    def __init__(self, hosts: Hosts, page: list[Block]) -> None:
        self.hosts = hosts.by_name
        self._page = [block for block in page if block.kind in RUN]
        self.not_run = list(self._page)

    # --- the page ------------------------------------------------------------------------------

    def run(self, section: str, phrase: str, host: Host | None = None) -> str:
        """Run the one block that holds the phrase where it says, or on `host`; what it said."""
        block = self.block(section, phrase)
        if host is None:
            place = block.where.partition(",")[0]
            roles = {"the primary": self.primary, "a standby": self.standby}
            host = roles[place]() if place in roles else self.hosts[place]
        return host.sh(block.text)

    def block(self, section: str, phrase: str) -> Block:
        """Return the one block of a section that holds the phrase; it counts as run."""
        [found] = [b for b in self._page if b.section == section and phrase in b.text]
        if found in self.not_run:
            self.not_run.remove(found)
        return found

    def follow(self, section: str) -> None:
        """Do what a section says, from its beginning to its end."""
        for block in [block for block in self._page if block.section == section]:
            if block.kind == "application":
                continue  # It runs when an application has it.
            self.not_run.remove(block)
            name, _, until = block.where.partition(", ")
            if until:
                self._wait(until)
            if block.kind == "file":
                self._on_each(lambda host, b=block: host.write(b.where, b.text))
            elif name == "each host":
                self._on_each(lambda host, b=block: host.sh(b.text))
            else:
                self.hosts[name].sh(block.text)

    def _wait(self, until: str) -> None:
        match until:
            case "until the cluster is whole":
                self.wait_whole()
            case "until ZooKeeper serves":
                for host in self.hosts.values():
                    wait_for(f"{until} on {host.name}", partial(_serves, host), timeout=WHOLE_S)
            case _:
                raise AssertionError(f"the page says {until!r}: not known here")

    def _on_each(self, work: Callable[[Host], object]) -> None:
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(work, self.hosts.values()))

    # --- the cluster ---------------------------------------------------------------------------

    def members(self, host: Host) -> list[dict[str, Any]]:
        """Return what the agent of a host says of each member, [] where it does not answer."""
        try:
            url = f"http://{host.address}:8008/cluster"
            with urllib.request.urlopen(url, timeout=_ASK_S) as answer:
                return list(json.load(answer)["members"])
        except (OSError, http.client.HTTPException):
            return []

    def leaders(self) -> set[str]:
        """Return who is primary for those agents that answer."""
        found: set[str] = set()
        for host in filter(lambda host: host.is_on, self.hosts.values()):
            members = self.members(host)
            found |= {str(m["name"]) for m in members if m["role"] == "leader"}
        return found

    def primary(self) -> Host:
        """Return the host of the primary, on which all agents that answer agree."""
        wait_for("one primary", lambda: len(self.leaders()) == 1, timeout=WHOLE_S, every=0.1)
        return self.hosts[self.leaders().pop()]

    def wait_another_primary(self, old: Host) -> Host:
        """Wait until another host's PostgreSQL is the primary; return that host."""

        def another() -> bool:
            leaders = self.leaders()
            return len(leaders) == 1 and old.name not in leaders

        self._patiently(f"a primary that is not {old.name}", another)
        return self.primary()

    def standby(self) -> Host:
        """Return the host of a standby."""
        primary = self.primary()
        return next(host for host in self.hosts.values() if host is not primary)

    def timeline(self) -> int:
        """Return the primary's timeline."""
        members = self.members(self.primary())
        return next(int(m["timeline"]) for m in members if m["role"] == "leader")

    def wait_whole(self) -> None:
        """Wait until every agent says that there are a primary and two standbys that stream."""
        self._patiently("a leader and two that stream, as every agent sees it", self._is_whole)

    def _is_whole(self) -> bool:
        views: set[tuple[tuple[str, str, str, int], ...]] = set()
        for host in self.hosts.values():
            members = self.members(host)
            view = [(m["name"], m["role"], m["state"], m.get("timeline", 0)) for m in members]
            views.add(tuple(sorted(view)))
        if len(views) != 1:
            return False
        [view] = views
        roles = sorted((role, state) for _, role, state, _ in view)
        timelines = {timeline for *_, timeline in view}
        return roles == [("leader", "running"), _STANDBY, _STANDBY] and len(timelines) == 1

    def _patiently(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            wait_for(what, condition, timeout=WHOLE_S, every=0.1)
        except AssertionError as error:
            seen = {name: self.members(host) for name, host in self.hosts.items()}
            raise AssertionError(f"{error}: {seen}") from None

    def logs(self) -> str:
        """Return the ends of what all hosts' services have said."""
        return "".join(host.logs() for host in self.hosts.values())


class Applications:
    """They write on the host `client`, each with the page's connection string, and each beginning
    with the HAProxy of another host. `history`: what they saw."""

    def __init__(self, demo: Demo) -> None:
        self._demo = demo
        dsn = demo.block("7", "host=").text
        parts: dict[str, Any] = {**conninfo_to_dict(dsn), "password": PASSWORD}
        hosts = str(parts["host"]).split(",")
        turned = {n: ",".join(hosts[n:] + hosts[:n]) for n in range(len(hosts))}
        self.dsn, *others = [make_conninfo(**{**parts, "host": h}) for h in turned.values()]
        self._others = {f"{hosts[n]} first": dsn for n, dsn in enumerate(others, 1)}
        self._paths = (ENTRY, *self._others)
        self._writers = Writers(self.dsn, others=self._others, through_entry=1, pace=_PACE)

    @contextmanager
    def writing(self) -> Generator[None]:
        """They write until the end of the block."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(CREATE.encode())
        with self._writers:
            yield

    @property
    def history(self) -> list[Attempt]:
        """Return a copy of what they have seen so far."""
        return self._writers.history

    def wait_served(self, since: float) -> None:
        """Wait until every application was acknowledged inserts that began after `since`."""

        def served() -> bool:
            return all(self._writers.acknowledged_since(since, p) >= _ENOUGH for p in self._paths)

        try:
            wait_for("every application is served", served, timeout=WHOLE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.history[-5:]}") from None

    def silences(self, fault: float) -> list[float]:
        """Return for how long each application was not served around a fault (seconds)."""
        history, now = self.history, time.monotonic()
        return [round(outage(history, path, fault, now).gap, 1) for path in self._paths]

    def violations(self) -> list[str]:
        """Return what is wrong with any member's rows, by the history. Nobody writes any more."""
        found = late_acknowledgements(self.history)
        found += [f"never told: {a}" for a in self.history if a.detail.startswith("no answer")]
        for name, keys in self._rows().items():
            found += [f"{name}: {text}" for text in lost_or_repeated(self.history, keys)]
        return found

    def _rows(self) -> dict[str, list[int]]:
        end = _sql(self._demo.primary(), "SELECT pg_current_wal_lsn()")
        rows: dict[str, list[int]] = {}
        for host in self._demo.hosts.values():
            wait_for(f"{host.name} has {end}", partial(_has_replayed, host, end), timeout=30)
            rows[host.name] = [int(key) for key in _sql(host, f"SELECT key FROM {TABLE}").split()]
        return rows


def _serves(zookeeper: Host) -> bool:
    return "Mode: " in zookeeper.sh(f"printf srvr | nc {zookeeper.address} 2181 || true")


def _has_replayed(host: Host, lsn: str) -> bool:
    standby = "pg_is_in_recovery() AND pg_last_wal_replay_lsn() < "
    return _sql(host, f"SELECT {standby}'{lsn}'") == "f"


def _sql(host: Host, query: str) -> str:
    psql = f"PGPASSWORD={PASSWORD} psql -qAtX -h {host.address} -U postgres"
    return host.sh(f'{psql} -c "{query}"').strip()
