"""What the DCS and the peers showed: the newest register, who grants, and that the DCS forgot."""

from dataclasses import replace

from pgregent.core.events import CasAnswer
from pgregent.core.types import PgState, Record, Register, Stage
from pgregent.core.view import State


def see(state: State, register: Register) -> None:
    """Take over a register that was read, written or told of, if it is newer."""
    known = state.register
    if known is not None and register.seq <= known.seq:
        return
    if is_anothers(known, register):
        return
    claimed = known is not None and known.term == 0 and known.primary == state.me
    if claimed and state.postgres.system_id not in ("", register.system_id):
        # It was creating the cluster when another member did: its directory was never in office.
        state.durable = replace(state.durable, stage=Stage.CLONE)
    changed = known is None or (known.term, known.round, known.electing) != (
        register.term,
        register.round,
        register.electing,
    )
    state.durable = replace(state.durable, register=register)
    state.seq_seen_at = state.now
    state.register_absent = state.register_lost = False
    if changed:
        state.register_seen_at = state.now
        state.announce("election" if register.electing else "register", register.why)
    if register.electing or register.primary != state.me:
        state.opened = state.opened and register.primary == state.me
        state.suspicion = None


def register_read(
    state: State, register: Register | None, asked_at: float, members: tuple[Record, ...]
) -> None:
    """A linearizable read showed this."""
    state.dcs_ok, state.dcs_why, state.dcs_foreign = True, "", False
    known = state.register
    if register is None:
        state.register_absent = known is None
        if known is not None and asked_at > state.seq_seen_at:
            _lost(state, 0)
    elif is_anothers(known, register):
        state.dcs_ok, state.dcs_foreign = False, True
        state.dcs_why = (
            "it shows the register of another cluster: point this member at its own DCS and scope"
        )
    else:
        see(state, register)
        newest = state.register
        if newest is None:
            return
        if register == newest:
            state.read_at = max(state.read_at, asked_at)
            state.register_lost = False
        elif register.seq <= newest.seq and asked_at > state.seq_seen_at:
            _lost(state, register.seq)
    for record in members:
        _member_read(state, record)


def is_anothers(known: Register | None, shown: Register) -> bool:
    """Whether the register shown is another cluster's than the one known."""
    if known is None or not known.system_id:
        return False
    return shown.system_id not in ("", known.system_id)


def _lost(state: State, shown: int) -> None:
    if not state.register_lost:
        state.announce("dcs_lost", "the DCS shows less than this member has seen")
        state.lost_beat = state.beat + 1
    state.register_lost, state.lost_seq = True, shown


def _member_read(state: State, record: Record) -> None:
    if record.incarnation.name == state.me.name:
        return
    peer = state.peer(record.incarnation.name)
    if record.beat != peer.beat_seen:
        peer.beat_seen, peer.beat_changed_at = record.beat, state.now
    if peer.record is None or record.beat > peer.record.beat:
        peer.record = record


def cas_answered(state: State, answer: CasAnswer) -> None:
    """A CAS was stored, surely not stored, or nobody knows."""
    if state.cas != answer.effect:
        return
    state.cas = None
    if answer.done:
        if state.register_lost:
            state.announce("dcs_restored", answer.effect.register.why)
        see(state, answer.effect.register)
        state.written_seq = answer.effect.register.seq
        state.register_lost = False
        if state.register == answer.effect.register:
            state.read_at = max(state.read_at, answer.asked_at)
    else:
        state.cas_failed_at = state.now
        # Where that write was the register's, somebody may have acted on it since.
        state.lost_beat = state.beat + 1
        if answer.done is None:
            state.dcs_why = f"the outcome of a write is unknown: {answer.reason}"


def peer_heard(state: State, record: Record) -> None:
    """A record came over the channel."""
    peer = state.peer(record.incarnation.name)
    if peer.record is not None and peer.record.incarnation != record.incarnation:
        peer.granted_at, peer.granted_term = float("-inf"), 0
    if peer.record is not None and record.replay_lsn > peer.record.replay_lsn:
        peer.not_primary_since = state.now
    peer.record, peer.heard_at, peer.closed = record, state.now, False
    if record.register is not None:
        see(state, record.register)
    running = record.state is PgState.PRIMARY
    peer.not_primary_since = float("inf") if running else min(peer.not_primary_since, state.now)
    register = state.register
    if register is not None and record.serving and record.incarnation == register.primary:
        state.served_at = state.now
    sent = state.sent_at.get(record.heard.get(state.me.name, -1))
    if sent is not None and record.grant:
        if peer.granted_term != record.grant:
            peer.granted_at = sent
        peer.granted_at, peer.granted_term = max(peer.granted_at, sent), record.grant
