"""Which standbys commits wait for, and when that changes."""

from dataclasses import replace

from pgregent.core.types import PLACEHOLDER, Incarnation, PgState, Register, Rule
from pgregent.core.view import State


def synchronous_standby_names(rule: Rule) -> str:
    """PostgreSQL's setting for a rule. Empty only where the writer alone suffices."""
    if rule.strict:
        return standby_names()
    if rule.k == 0:
        return ""
    names = ", ".join(f'"{m.label}"' for m in rule.members)
    return f"ANY {rule.k} ({names})"


def standby_names() -> str:
    """A standby's names: never empty, so that a promotion starts with the sync flag set
    (PostgreSQL sets it in the checkpointer, later than a backend could commit)."""
    return f'ANY 1 ("{PLACEHOLDER}")'


def satisfies_all(register: Register, holders: frozenset[Incarnation]) -> bool:
    """Whether `holders` hold everything that was acknowledged under any listed rule."""
    return all(rule.satisfied_by(holders) for rule in register.rules)


def with_rule(register: Register, rule: Rule) -> tuple[Rule, ...]:
    """The listed rules with `rule` as the one to apply; a rule is listed once."""
    return (*(r for r in register.rules if r != rule), rule)


def make_rule(state: State, writer: Incarnation, members: tuple[Incarnation, ...]) -> Rule:
    """The rule that the settings ask for with these members."""
    k = _wanted_k(state, len(members))
    if k < state.settings.minimum_k:
        return Rule(writer, 0, (), strict=True)
    return Rule(writer, k, tuple(sorted(members)) if k else ())


def _wanted_k(state: State, members: int) -> int:
    wanted = state.settings.nodes_wanted_k if state.settings.synchronous else 0
    return min(wanted, members)


def mixture(rules: tuple[Rule, ...], rule: Rule) -> tuple[Rule, ...]:
    """The rule, if one is missing, that every commit satisfies which is acknowledged while some
    walsenders still work under one of `rules` and some under `rule`, all of one writer.

    A walsender waits for its own k, and who counts every walsender says of itself (syncrep.c). So
    with `ANY 2 (a, b, c)` on its way to `ANY 2 (a, b, d)` a commit can be acknowledged by c and d,
    and with `ANY 1 (a)` on its way to `ANY 2 (a, b)` by b alone. With k = 1 everywhere, whoever
    acknowledges satisfies one of them.
    """
    real = [r for r in (*rules, rule) if r.k and r.writer == rule.writer]
    if max((r.k for r in real), default=0) < 2:
        return ()
    members = {m for r in real for m in r.members}
    mixed = Rule(rule.writer, min(r.k for r in real), tuple(sorted(members)))
    return () if mixed in (*rules, rule) else (mixed,)


STALL_LIMIT = 0.3
"""Seconds without a confirmation, and without a word from its agent, after which a walsender that
PostgreSQL calls streaming is not believed: it says so of a frozen standby for many seconds."""


def note_walsenders(state: State) -> None:
    """Keep in mind since when each walsender confirms nothing though there is WAL to confirm."""
    position = state.postgres.position
    before, state.behind = state.behind, {}
    if position is None:
        return
    for walsender in state.postgres.walsenders:
        if walsender.flush_lsn >= position.lsn:
            continue
        lsn, since = before.get(walsender.application_name, (-1, state.now))
        moved = walsender.flush_lsn > lsn
        now_since = state.now if moved else since
        state.behind[walsender.application_name] = (walsender.flush_lsn, now_since)


def _stalled(state: State, member: Incarnation) -> bool:
    _, since = state.behind.get(member.label, (0, state.now))
    silent = state.now - state.peer(member.name).heard_at
    return state.now - since >= STALL_LIMIT and silent >= STALL_LIMIT


def streaming_members(state: State) -> frozenset[Incarnation]:
    """Members whose walreceiver streams this term's timeline from this primary, by both sides."""
    register = state.register
    assert register is not None
    labels = {w.application_name.lower() for w in state.postgres.walsenders if w.streaming}
    found: set[Incarnation] = set()
    for peer in state.peers.values():
        record = peer.record
        if record is None or record.incarnation.label.lower() not in labels:
            continue
        current = record.register is not None and record.register.term == register.term
        # One that is past the fork streams the rest of the old timeline, and is taken to have
        # flushed what it does not have (measured on PostgreSQL 15 and 18).
        current = current and record.upstream_timeline == register.term
        usable = record.state is PgState.STANDBY and record.sync and not record.leaving
        if current and usable and not _stalled(state, record.incarnation):
            found.add(record.incarnation)
    return frozenset(found)


def evidently_gone(state: State, member: Incarnation) -> bool:
    """Whether there is positive evidence that this member flushes nothing any more."""
    peer = state.peers.get(member.name)
    if peer is None or peer.record is None:
        return False
    record = peer.record
    if record.incarnation != member or record.leaving:
        return True
    if record.state in (PgState.STOPPED, PgState.ABSENT) and not peer.closed:
        return True
    return peer.answers_nothing


def desired_rule(state: State) -> tuple[Rule, str]:
    """The rule that should be applied now, and why it differs from the one that is.

    A member that is gone leaves: at once where it said so; where the rule cannot be met without
    it, on positive evidence or after `suspect_after`; else after `standby_grace`. Nobody leaves
    where fewer than the operator's minimum would be left: then commits wait.
    """
    register = state.register
    assert register is not None
    rule = register.rule
    streaming = streaming_members(state)
    members = set(rule.members) if rule.writer == state.me else set[Incarnation]()
    for member in [m for m in state.missing_since if m in streaming or m not in members]:
        del state.missing_since[member]
    met = len(members & streaming) >= _wanted_k(state, len(members))
    gone = [m for m in sorted(members - streaming) if _may_leave(state, m, met)]
    new = sorted(streaming - members)
    left = len(members) + len(new) - len(gone)
    if state.opened and left < state.settings.minimum_k:
        # Not while nobody can clone from here yet: a new member could never take its place.
        gone = []
    why = [f"{m.name} {'is gone' if _syncs(state, m) else 'is tagged nosync'}" for m in gone]
    why += [f"{m.name} streams" for m in new]
    wanted = make_rule(state, state.me, tuple((members - set(gone)) | streaming))
    return (wanted, " and ".join(why) or "the settings changed")


def _syncs(state: State, member: Incarnation) -> bool:
    peer = state.peers.get(member.name)
    return peer is None or peer.record is None or peer.record.sync


def _may_leave(state: State, member: Incarnation, met: bool) -> bool:
    missing = state.now - state.missing_since.setdefault(member, state.now)
    peer = state.peers.get(member.name)
    record = peer.record if peer is not None else None
    if record is not None and (record.incarnation != member or record.leaving):
        return True
    if not _syncs(state, member):
        return True
    if met:
        return missing >= state.settings.standby_grace
    return evidently_gone(state, member) or missing >= state.settings.suspect_after


def appended(register: Register, rule: Rule, why: str) -> Register:
    """The register with `rule` listed last, and before it what it may be mixed to on the way."""
    mixed = replace(register, rules=(*register.rules, *mixture(register.rules, rule)))
    return replace(register, seq=register.seq + 1, rules=with_rule(mixed, rule), why=why)


def dropped(register: Register, why: str) -> Register:
    """The register with the last rule only: allowed after a barrier was acknowledged under it."""
    return replace(register, seq=register.seq + 1, rules=register.rules[-1:], why=why)
