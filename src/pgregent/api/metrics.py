"""GET /metrics: Prometheus' text format, with Patroni's names and pgregent's own.

Written by hand: Patroni's counters do not end in _total, and client libraries insist on that.
"""

from collections.abc import Iterator

from pgregent import __version__
from pgregent.api.node import Node
from pgregent.api.patroni import COMPATIBLE_VERSION
from pgregent.core.types import PgState

STATES = {
    "initializing new cluster": 0,
    "creating replica": 4,
    "running": 5,
    "starting": 6,
    "start failed": 8,
    "stopping": 11,
    "stopped": 12,
    "crashed": 14,
}
"""Patroni's numbers of its states; "unknown" has none."""

Metric = tuple[str, str, str, str | float]
"""Name, type, help, value."""


def text(node: Node) -> str:
    """What Prometheus reads. What is not known is left out."""
    labels = f'{{scope="{node.scope}",name="{node.state.me.name}"}}'
    lines: list[str] = []
    for metrics in (_patroni(node), _positions(node), _cluster(node), _own(node)):
        for name, kind, meaning, value in metrics:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines.append(f"{name}{labels} {value if isinstance(value, str) else _number(value)}")
    info = f'pgregent_info{{scope="{node.scope}",name="{node.state.me.name}",'
    lines += ["# HELP pgregent_info pgregent's version.", "# TYPE pgregent_info gauge"]
    lines.append(f'{info}version="{__version__}"}} 1')
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def _version(version: str) -> str:
    return "".join(part.zfill(2) for part in version.split("."))


def _patroni(node: Node) -> Iterator[Metric]:
    running, state = node.pg_state == "running", node.pg_state
    replica = running and node.role == "replica"
    sync = node.synchronous and node.synchronous_mode == "on"
    quorum = node.synchronous and not sync
    version = _version(COMPATIBLE_VERSION)
    yield "patroni_version", "gauge", "The Patroni that this API is compatible with.", version
    yield "patroni_postgres_running", "gauge", "1 if PostgreSQL runs.", running
    yield "patroni_primary", "gauge", "1 if this member may serve writes now.", node.serving
    yield "patroni_standby_leader", "gauge", "1 if it leads a standby cluster.", 0
    yield "patroni_replica", "gauge", "1 if a standby runs here.", replica
    yield "patroni_sync_standby", "gauge", "1 if it is a synchronous standby.", sync
    yield "patroni_quorum_standby", "gauge", "1 if it is a quorum standby.", quorum
    if state in STATES:
        yield "patroni_postgres_state", "gauge", "The state of PostgreSQL.", STATES[state]
    priority = int(not node.state.settings.nofailover)
    waits = bool(node.waits_for_restart)
    yield "patroni_pending_restart", "gauge", "1 if PostgreSQL has to be restarted.", waits
    yield "patroni_failover_priority", "gauge", "0 if it is never appointed.", priority


def _positions(node: Node) -> Iterator[Metric]:
    postgres = node.state.postgres
    running, end = node.pg_state == "running", postgres.position
    primary = running and postgres.state is PgState.PRIMARY
    standby = running and postgres.state is PgState.STANDBY
    lsn = end.lsn if end is not None else 0
    streams = standby and postgres.streaming
    received, replayed = (lsn, postgres.replay_lsn) if standby else (0, 0)
    yield "patroni_xlog_location", "counter", "Of the primary's log; else 0.", lsn * primary
    yield "patroni_xlog_received_location", "counter", "WAL received; else 0.", received
    yield "patroni_xlog_replayed_location", "counter", "WAL replayed; else 0.", replayed
    paused = standby and postgres.replay_paused
    yield "patroni_xlog_paused", "gauge", "1 if replay is paused.", paused
    yield "patroni_postgres_streaming", "gauge", "1 if the standby streams.", streams
    if end is not None and running:
        yield "patroni_postgres_timeline", "gauge", "PostgreSQL's timeline.", end.timeline


def _cluster(node: Node) -> Iterator[Metric]:
    unlocked, seen = node.unlocked, node.dcs_last_seen
    yield "patroni_cluster_unlocked", "gauge", "1 if nobody is in office.", unlocked
    yield "patroni_dcs_last_seen", "gauge", "When the DCS last answered (seconds).", seen
    yield "patroni_failsafe_mode_is_active", "gauge", "Serves without the DCS.", node.without_dcs
    paused = node.state.settings.paused
    yield "patroni_is_paused", "gauge", "1 if automation is paused.", paused


def _own(node: Node) -> Iterator[Metric]:
    state, register = node.state, node.state.register
    left = node.authority_left
    yield "pgregent_up", "gauge", "1 if the agent's loop runs.", node.alive
    yield "pgregent_serving", "gauge", "1 if this member may serve writes now.", node.serving
    yield "pgregent_authority_seconds", "gauge", "For how long a primary may serve yet.", left
    yield "pgregent_dcs_up", "gauge", "1 if the DCS answered last time.", state.dcs_ok
    if register is None:
        return
    yield "pgregent_term", "gauge", "The term in force.", register.term
    yield "pgregent_round", "gauge", "The number of the latest election.", register.round
    yield "pgregent_electing", "gauge", "1 if an election is under way.", register.electing
    yield "pgregent_register_seq", "gauge", "Writes of the register so far.", register.seq
    rules = len(register.rules)
    yield "pgregent_rules", "gauge", "Durability rules in force (1 when settled).", rules
    if register.rules:
        rule = register.rule
        yield "pgregent_rule_k", "gauge", "How many standbys a commit waits for.", rule.k
        members = len(rule.members)
        yield "pgregent_rule_members", "gauge", "Out of how many standbys.", members
