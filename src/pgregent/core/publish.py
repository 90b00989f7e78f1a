"""What this member tells the others."""

from pgregent.core.effects import Publish, PutMember
from pgregent.core.lease import grant_for, has_authority
from pgregent.core.types import PgState, Record
from pgregent.core.view import State

PUT_EVERY = 5.0
PUT_EVERY_TWO_NODES = 0.3
"""Seconds between beats in the DCS; two nodes have no third opinion but that beat."""
PUT_EVERY_LOST = 1.0
VOTE_PUT_AFTER = 0.1
"""Seconds after which a vote goes to the DCS too: mostly the channel has carried it by then."""
KEEP_BEATS = 128


def serving(state: State) -> bool:
    """Whether clients may be routed here for writes."""
    register = state.register
    return (
        register is not None
        and state.is_primary
        and not register.electing
        and state.opened
        and not state.holding
        and state.postgres.state is PgState.PRIMARY
        and has_authority(state)
    )


def record_of(state: State) -> Record:
    """This member's record as it is now (without a beat of its own)."""
    settings, postgres = state.settings, state.postgres
    heard = {
        name: peer.record.beat
        for name, peer in state.peers.items()
        if peer.record is not None and not peer.closed and peer.heard_at > float("-inf")
    }
    answered_ago = 0.0
    if postgres.answered_at and postgres.state is not PgState.STOPPED:
        answered_ago = round(max(0.0, state.now - postgres.answered_at), 1)
    return Record(
        incarnation=state.me,
        beat=state.beat,
        state=postgres.state,
        position=postgres.position,
        replay_lsn=postgres.replay_lsn,
        streaming=postgres.streaming,
        upstream_timeline=postgres.upstream_timeline,
        register=state.register,
        vote=state.vote,
        suspicion=state.suspicion,
        grant=grant_for(state),
        heard=heard,
        down=state.down,
        serving=serving(state),
        leaving=state.withdraws,
        dcs_ok=state.dcs_ok,
        dcs_lost=state.register_lost,
        eligible=not settings.nofailover and not postgres.replay_paused,
        sync=not settings.nosync,
        balanced=not settings.noloadbalance,
        answered_ago=answered_ago,
        host=settings.host,
        port=settings.port,
        api_url=settings.api_url,
        why=state.why,
        agent_pid=settings.agent_pid,
    )


def publish(state: State) -> None:
    """Send the record at every heartbeat, and at once when something that others act on changed."""
    serves = serving(state)
    if serves:
        state.served_at = state.now
    last = state.published
    urgent = last is None or _has_changed(state, last, serves)
    if not urgent and state.now - state.published_at < state.settings.heartbeat:
        return
    state.beat += 1
    record = record_of(state)
    state.published, state.published_at = record, state.now
    state.sent_at[state.beat] = state.now
    if len(state.sent_at) > KEEP_BEATS:
        del state.sent_at[next(iter(state.sent_at))]
    state.out.append(Publish(record))
    register = state.register
    beats = register is not None and bool(register.rules) and len(register.rule.members) < 2
    every = PUT_EVERY_TWO_NODES if beats else PUT_EVERY
    if record.dcs_lost:
        # Who finds the DCS empty has to learn that the cluster exists.
        every = 0.0 if last is None or not last.dcs_lost else min(every, PUT_EVERY_LOST)
    late_vote = record.vote != state.put_vote and (
        record.vote is None or state.now - state.voted_at >= VOTE_PUT_AFTER
    )
    if late_vote or state.now - state.put_at >= every:
        state.put_at, state.put_vote = state.now, record.vote
        state.out.append(PutMember(record))


def _has_changed(state: State, last: Record, serves: bool) -> bool:
    """Whether something that others act on is not as they were told last."""
    register, told = state.register, last.register
    settings, postgres = state.settings, state.postgres
    return (
        last.serving != serves
        or last.state is not postgres.state
        or (told.seq if told else 0) != (register.seq if register else 0)
        or last.grant != grant_for(state)
        or last.vote != state.vote
        or (last.suspicion is None) != (state.suspicion is None)
        or last.incarnation != state.me
        or last.down != state.down
        or last.leaving != state.withdraws
        or last.dcs_lost != state.register_lost
        or last.eligible != (not settings.nofailover and not postgres.replay_paused)
    )
