"""How long writes can be out, fault by fault: what the settings bound, as formulas and figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from pgregent.config.dynamic import Dcs
from pgregent.config.schema import Pgregent
from pgregent.core.election import STUCK_LIMIT
from pgregent.core.primary import SUCCESSION_WAIT, UNANSWERED_LIMIT

PROBE_S = 0.2
"""A fresh connection to the server whose connections were closed."""
TAKEOVER_S = 0.5
"""Typical, not a limit: see TAKEOVER."""
RULE_CHANGE_S = 0.5
"""Typical: two changes of the register, a reload, a commit."""

TAKEOVER = (
    f"takeover: election, seals, replay, promotion and the first acknowledged commit, about "
    f"{TAKEOVER_S:g} s; longer where a standby has much WAL left to replay"
)
UNUSED = (
    "ttl, loop_wait and retry_timeout do not appear: nothing here waits for them "
    "(suspect_after and lease do what ttl does in Patroni)"
)
SEED_HAPROXY = (
    "behind HAProxy with `inter 3s fall 3 rise 2` add 3 to 9 s: it takes 3 to 6 s to mark the new "
    "primary up, and 6 to 9 s to mark the old one down and cut its sessions"
)


@dataclass(frozen=True, slots=True)
class Outage:
    """One fault. `seconds`: how long writes are out, 0 for not at all, None for no fixed bound."""

    fault: str
    formula: str
    seconds: float | None

    @property
    def bound(self) -> str:
        """The figure in words."""
        match self.seconds:
            case None:
                return "not bounded"
            case 0:
                return "none"
            case seconds:
                return f"about {seconds:.1f} s"


def outages(own: Pgregent, dcs: Dcs) -> tuple[Outage, ...]:
    """The faults, one at a time, with a standby that may succeed and has the WAL."""
    hung = max(3 * own.suspect_after, STUCK_LIMIT)
    silence = own.suspect_after
    return (
        Outage(
            "PostgreSQL or the node of the primary killed (its connections are closed)",
            f"probe {PROBE_S:g} s + takeover",
            PROBE_S + TAKEOVER_S,
        ),
        Outage(
            "the node of the primary frozen or cut off (silence)",
            f"suspect_after {silence:g} s + takeover",
            silence + TAKEOVER_S,
        ),
        Outage(
            "PostgreSQL of the primary hangs, its agent does not",
            f"max(3 × suspect_after, {STUCK_LIMIT:g} s) + takeover",
            hung + TAKEOVER_S,
        ),
        Outage(
            "the same with two nodes",
            f"{UNANSWERED_LIMIT:g} s, then its agent stops it + takeover",
            UNANSWERED_LIMIT + TAKEOVER_S,
        ),
        Outage(
            "the primary killed, and no member may succeed it",
            f"{SUCCESSION_WAIT:g} s + its own recovery; a start that takes longer than "
            f"primary_start_timeout ({dcs.primary_start_timeout:g} s) is tried again",
            None,
        ),
        *_standby_lost(own, dcs),
        Outage("planned switchover", "takeover, after a checkpoint and a clean stop", TAKEOVER_S),
        Outage("the DCS lost", "writes go on; nobody can be appointed until it is back", 0),
    )


def _standby_lost(own: Pgregent, dcs: Dcs) -> tuple[Outage, ...]:
    k = dcs.synchronous_node_count
    others = "another one streams" if k == 1 else f"{k} others stream"
    another = Outage(f"a standby lost while {others}", "the others confirm", 0)
    text = "synchronous_mode_strict: writes wait until a standby streams again"
    waits = Outage("the only standby lost", text, None)
    if dcs.synchronous_mode_strict and k == 1:
        return (another, waits)
    one = "the only standby" if k == 1 else f"one of the last {k} standbys"
    return (
        another,
        *((waits,) if dcs.synchronous_mode_strict else ()),
        Outage(
            f"{one} killed",
            f"probe {PROBE_S:g} s + change of the rule, about {RULE_CHANGE_S:g} s",
            PROBE_S + RULE_CHANGE_S,
        ),
        Outage(
            f"{one} frozen or cut off",
            f"suspect_after {own.suspect_after:g} s + change of the rule",
            own.suspect_after + RULE_CHANGE_S,
        ),
    )


def outage_table(rows: Sequence[Outage]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| fault | writes are out for | that is |", "|---|---|---|"]
    lines += [f"| {row.fault} | {row.formula} | {row.bound} |" for row in rows]
    return "\n".join(lines)
