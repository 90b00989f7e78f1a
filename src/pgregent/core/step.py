"""The only way in: an event changes the state, and the effects say what is to be done.

Ordering duty of the caller: when `state.durable` has changed, it is on disk before any of the
effects begins. Answers are handled when they come; an answer to an effect that is no longer in
hand changes nothing.
"""

from dataclasses import replace

from pgregent.core.amnesia import plan_restore, restore_by_operator
from pgregent.core.answers import effect_done, effect_failed, server_exited
from pgregent.core.bootstrap import plan_bootstrap
from pgregent.core.durability import note_walsenders, synchronous_standby_names
from pgregent.core.effects import (
    Clone,
    Deadline,
    Effect,
    Initdb,
    Promote,
    Rewind,
    Seal,
    Start,
    Stop,
)
from pgregent.core.election import renew_eligibility
from pgregent.core.events import (
    CasAnswer,
    DcsFailed,
    DeadlineKept,
    Done,
    Event,
    Failed,
    Leave,
    Observed,
    PeerClosed,
    PeerHeard,
    PostgresExited,
    Probed,
    RegisterRead,
    Reinitialize,
    Restart,
    RestoreDcs,
    Switchover,
    Tick,
)
from pgregent.core.lease import authority_until
from pgregent.core.primary import plan_primary
from pgregent.core.publish import publish
from pgregent.core.reinitialize import begin_reinitialize, plan_reinitialize
from pgregent.core.restart import begin_restart, plan_restart
from pgregent.core.seen import cas_answered, peer_heard, register_read
from pgregent.core.standby import plan_standby
from pgregent.core.switchover import begin_switchover, plan_leaving, plan_switchover
from pgregent.core.types import (
    PgState,
    Postgres,
    Register,
    Stage,
)
from pgregent.core.view import Leaving, Restarting, State

FROZEN_AFTER = 0.5
"""Seconds without any event, though time ticks much faster: this process did not run."""
NAMES_LOOKS = 2
"""Looks in a row that have to show other names: a session adopts a reload late."""
DEADLINE_STEP = 0.25
DEADLINE_EVERY = 1.0
"""The guard is told when the deadline has moved by the step, and every second in any case, since
what an earlier agent told it, or whether it heard, is not known. Seconds."""


def step(state: State, event: Event, now: float, epoch: float = 0.0) -> list[Effect]:
    """Handle one event at `now` (monotonic seconds; `epoch` only labels history)."""
    if now - state.now > FROZEN_AFTER:
        state.awake_since = now
    state.now, state.epoch, state.out = now, epoch, []
    _absorb(state, event)
    _note_standby(state)
    if not state.exiting:
        _decide(state)
    _set_deadline(state)
    publish(state)
    return state.out


def _decide(state: State) -> None:
    register = state.register
    if state.register_lost:
        plan_restore(state)
    if state.leaving is not Leaving.NO:
        plan_leaving(state)
    elif state.is_strangers:
        state.why = (
            f"its data directory has system identifier {state.postgres.system_id}, not the "
            "cluster's: it belongs to another cluster; move it away, or correct data_dir"
        )
    elif register is None or register.term == 0:
        plan_bootstrap(state)
    elif _plan_what_was_asked(state, register):
        pass
    elif state.hands_off and _is_off(state) and not register.electing:
        state.down, state.suspicion = False, None
        state.why = "the cluster is paused: its PostgreSQL stays as it is until a restart or resume"
    elif state.is_primary:
        plan_primary(state)
    else:
        plan_standby(state)
    if state.register_lost:
        lost = "the DCS was emptied or restored, it shows less than this member has seen"
        state.why = f"{lost}: {state.lost_why or 'writing it again'}; meanwhile: {state.why}"


def _plan_what_was_asked(state: State, register: Register) -> bool:
    """Whether what the operator asked for takes this step."""
    if state.switchover is not None:
        return plan_switchover(state, state.switchover)
    if state.restarting is not Restarting.NO:
        return plan_restart(state, register)
    return state.reinitializing and plan_reinitialize(state, register)


def _is_off(state: State) -> bool:
    return state.postgres.state in (PgState.STOPPED, PgState.ABSENT) and state.pg is None


def _absorb(state: State, event: Event) -> None:
    match event:
        case Tick():
            pass
        case RegisterRead(register, asked_at, members):
            register_read(state, register, asked_at, members)
        case DcsFailed(reason):
            state.dcs_ok, state.dcs_why = False, reason
        case CasAnswer():
            cas_answered(state, event)
        case PeerHeard(record):
            peer_heard(state, record)
        case PeerClosed() | Probed():
            _peer_evidence(state, event)
        case DeadlineKept(at, asked_at):
            if asked_at >= max(state.exited_at, state.server_started_at):
                state.deadline_kept = at
        case Observed(postgres, effects_done):
            _observed(state, postgres, effects_done)
        case PostgresExited(why):
            server_exited(state, why)
        case Done():
            effect_done(state, event)
        case Failed():
            effect_failed(state, event)
        case Switchover() | RestoreDcs() | Leave() | Restart() | Reinitialize():
            _told(state, event)


def _told(state: State, event: Switchover | RestoreDcs | Leave | Restart | Reinitialize) -> None:
    match event:
        case Switchover():
            begin_switchover(state, event)
        case RestoreDcs(seq):
            restore_by_operator(state, seq)
        case Leave(cluster):
            if state.leaving is Leaving.NO and state.switchover is None:
                state.checkpointed = False
            state.leaving_since = min(state.leaving_since, state.now)
            state.leaving = Leaving.CLUSTER if cluster else Leaving.NODE
            renew_eligibility(state)
        case Restart():
            begin_restart(state)
        case Reinitialize():
            begin_reinitialize(state)


def _peer_evidence(state: State, event: PeerClosed | Probed) -> None:
    peer = state.peer(event.name)
    match event:
        case PeerClosed(_, positive):
            if positive:
                peer.closed, peer.closed_at = True, state.now
        case Probed(_, answered, refused, asked_at):
            peer.probing = False
            if answered:
                peer.probed_ok_at = asked_at
            elif refused or not state.postgres.streaming:
                # Mere slowness is no evidence against a server that WAL still comes from.
                peer.probed_bad_at = asked_at


def _observed(state: State, postgres: Postgres, effects_done: int) -> None:
    if effects_done != state.effects_done or isinstance(
        state.pg, Start | Stop | Initdb | Rewind | Clone | Promote | Seal
    ):
        return
    was_running = state.running
    if was_running and postgres.state in (PgState.STOPPED, PgState.ABSENT):
        server_exited(state, "its PostgreSQL was found stopped")
    state.postgres = postgres
    note_walsenders(state)
    _compare_names(state)


def _note_standby(state: State) -> None:
    """A standby that answers has reached consistency; one that streams has proved itself."""
    if state.postgres.state is not PgState.STANDBY:
        return
    if state.durable.stage is Stage.REWOUND:
        state.durable = replace(state.durable, stage=Stage.NONE)
    if state.postgres.streaming:
        state.start_failures, state.clone_unproven = 0, False


def _compare_names(state: State) -> None:
    """Somebody else may have changed synchronous_standby_names: then the rule is applied again."""
    applied, postgres = state.applied, state.postgres
    same = applied is None or postgres.names == synchronous_standby_names(applied)
    if same or postgres.state is not PgState.PRIMARY or state.pg is not None:
        state.names_differ = 0
        return
    state.names_differ += 1
    if state.names_differ >= NAMES_LOOKS:
        state.announce("refused", f"synchronous_standby_names was changed to {postgres.names!r}")
        state.names_were_empty = state.names_were_empty or not postgres.names
        state.applied = state.barriered = None


def _set_deadline(state: State) -> None:
    """Tell the guard until when this primary has authority; one that was superseded keeps the
    deadline that it had until it is stopped."""
    register, running = state.register, state.postgres.state
    if register is None or register.term == 0:
        return
    promoting = isinstance(state.pg, Promote) or state.durable.promoting == register.term
    starting = isinstance(state.pg, Start) and state.pg.rule is not None
    if running is PgState.STARTING and state.durable.promoted == register.term:
        starting = True
    # Else one that does not answer keeps the deadline that it had, and is stopped by it.
    left_alone = running is PgState.UNKNOWN and state.settings.paused and state.opened
    serves = running is PgState.PRIMARY or left_alone
    if not state.is_primary or not (serves or promoting or starting):
        return
    at = authority_until(state)
    if at is not None and at <= state.now:
        none_told = state.deadline is None and state.deadline_told_at > float("-inf")
        if not none_told:
            return
        at = state.now
    told = state.now - state.deadline_told_at < DEADLINE_EVERY
    moved = at != state.deadline and (
        at is None or state.deadline is None or at - state.deadline >= DEADLINE_STEP
    )
    if moved or not told:
        state.deadline, state.deadline_told_at = at, state.now
        state.out.append(Deadline(at))
