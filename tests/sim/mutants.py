"""Planted mistakes: each breaks one rule of the protocol, and some schedule has to show it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pgregent.core import durability, election, primary, publish, seen, standby, step, switchover
from pgregent.core.effects import ApplyRule, Follow
from pgregent.core.errors import Unavailable
from pgregent.core.events import Sealed
from pgregent.core.plan import do
from pgregent.core.types import (
    Durable,
    Incarnation,
    PgState,
    Position,
    Record,
    Register,
    Rule,
    Stage,
    Vote,
)
from pgregent.core.view import State
from tests.sim import scenes
from tests.sim.agent import SimAgent
from tests.sim.node import Guard, Node
from tests.sim.port import Port
from tests.sim.world import Signal, Work

Patch = pytest.MonkeyPatch


def one_seal_too_few(patch: Patch) -> None:
    """An election is content with one member less than it takes."""

    def satisfied_by(self: Rule, holders: frozenset[Incarnation]) -> bool:
        have = sum(m in holders for m in self.members)
        return self.writer in holders or have >= max(1, len(self.members) - self.k)

    patch.setattr(Rule, "satisfied_by", satisfied_by)


def older_rules_dropped_at_the_appointment(patch: Patch) -> None:
    """The new term's rule replaces those under which commits were acknowledged."""
    whole = election.appoint

    def appoint(*args: Any) -> Register:
        register = whole(*args)
        return dataclasses.replace(register, rules=register.rules[-1:])

    patch.setattr(standby, "appoint", appoint)


def rule_replaced(patch: Patch) -> None:
    """A change of the rule forgets the one before at once."""
    whole = durability.appended

    def appended(*args: Any) -> Register:
        register = whole(*args)
        return dataclasses.replace(register, rules=register.rules[-1:])

    patch.setattr(primary, "appended", appended)


def term_blind(patch: Patch) -> None:
    """The highest LSN wins, whatever its timeline."""

    def choose(register: Register, cast: Mapping[Incarnation, Vote]) -> Incarnation | None:
        def flat(vote: Vote) -> Vote:
            return dataclasses.replace(vote, position=Position(1, vote.position.lsn))

        return election.choose(register, {m: flat(v) for m, v in cast.items()})

    patch.setattr(standby, "choose", choose)


def vote_without_a_seal(patch: Patch) -> None:
    """A member votes, but goes on taking WAL."""

    def seal(self: Port, round_: int, names: str) -> Work:
        yield 0.002
        return Sealed(round_, self.node.disk.position, max(self.node.disk.histories, default=1))

    patch.setattr(Port, "seal", seal)


def vote_before_the_walreceiver_is_gone(patch: Patch) -> None:
    """A member votes as soon as it has asked the walreceiver to go."""

    def seal(self: Port, round_: int, names: str) -> Work:
        yield from self._reconfigure("", names, None)  # pyright: ignore[reportPrivateUsage]
        return Sealed(round_, self.node.disk.position, max(self.node.disk.histories, default=1))

    patch.setattr(Port, "seal", seal)


def no_barrier(patch: Patch) -> None:
    """The older rules are dropped as soon as the names are in force."""

    def commit_barrier(state: State, rule: Rule, term: int) -> None:
        state.barriered = rule

    patch.setattr(primary, "commit_barrier", commit_barrier)


def no_checkpoint(patch: Patch) -> None:
    """The checkpointer's flag is taken for granted."""
    apply_names = Port.apply_names

    def apply(self: Port, names: str, checkpoint: bool, all_walsenders: bool = False) -> Work:
        yield from apply_names(self, names, False, all_walsenders)

    patch.setattr(Port, "apply_names", apply)


def stale_grants(patch: Patch) -> None:
    """Authority never runs out."""

    def forever(state: State) -> float:
        return state.now + 10**6

    def always(state: State) -> bool:
        return True

    patch.setattr("pgregent.core.step.authority_until", forever)
    patch.setattr(primary, "authority_until", forever)
    for module in (primary, publish):
        patch.setattr(module, "has_authority", always)


def rejoin_before_the_barrier(patch: Patch) -> None:
    """Logs that the older rules count on are rewound or replaced."""

    def no_election(register: Register) -> bool:
        return not register.electing

    def always(state: State, register: Register) -> bool:
        return True

    patch.setattr(standby, "fork_is_final", no_election)
    patch.setattr(standby, "primary_serves", always)


def handover_unproved(patch: Patch) -> None:
    """The successor's log is not looked at."""
    whole = switchover.candidate

    def candidate(state: State) -> Any:
        heir = whole(state)
        return heir and dataclasses.replace(heir, replay_lsn=10**12)

    patch.setattr(switchover, "candidate", candidate)


def unsynced_seal(patch: Patch) -> None:
    """A seal is on disk only a second after the vote that follows from it."""
    whole = SimAgent.persist

    def persist(self: SimAgent) -> None:
        durable = self.state.durable

        def synced() -> None:
            if self.state.durable is durable:
                whole(self)

        if durable.register is not None and durable.register.electing:
            self.world.call(1.0, self.proc, synced)
        else:
            whole(self)

    patch.setattr(SimAgent, "persist", persist)


def restore_command_left_on(patch: Patch) -> None:
    """A seal clears primary_conninfo only."""

    def seal(self: Port, round_: int, names: str) -> Work:
        yield from self._reconfigure("", names, None)  # pyright: ignore[reportPrivateUsage]
        self.node.disk.conf.restore = self.node.cluster_.archiving
        while True:
            server = self._running()  # pyright: ignore[reportPrivateUsage]
            if server.receiver is None and server.upstream is None and server.settled:
                histories = self.node.disk.histories
                return Sealed(round_, self.node.disk.position, max(histories, default=1))
            yield 0.005

    patch.setattr(Port, "seal", seal)


def rule_before_cas(patch: Patch) -> None:
    """New names are put into force while the register does not list them yet."""
    write = primary.write

    def apply_and_write(state: State, register: Register) -> None:
        before = state.register
        if before is not None and register.rules[-1] != before.rules[-1]:
            state.out.append(ApplyRule(register.rule, checkpoint=False))
        write(state, register)

    patch.setattr(primary, "write", apply_and_write)


def barrier_on_an_old_connection(patch: Patch) -> None:
    """Nobody looks whether the reload has been seen."""

    def apply_names(self: Port, names: str, checkpoint: bool, every: bool = False) -> Work:
        yield from self._reconfigure("", names, None)  # pyright: ignore[reportPrivateUsage]

    def barrier(self: Port, names: str) -> Work:
        yield 0.0002
        server = self._running()  # pyright: ignore[reportPrivateUsage]
        done = Signal()
        if not server.commit(self.node.checker.new_write(), done.fire):
            raise Unavailable("postgres", "not a primary")
        while not done.fired:
            yield 0.01
            if not server.alive:
                raise Unavailable("postgres", "connection lost")

    patch.setattr(Port, "apply_names", apply_names)
    patch.setattr(Port, "barrier", barrier)


def rewound_counts(patch: Patch) -> None:
    """Rewound, a node counts as before and votes at once, though it forgot what it acknowledged."""
    rewind = Port.rewind

    def remake(durable: Durable, stage: Stage) -> Durable:
        return dataclasses.replace(durable, stage=stage, promoting=0, promoted=0)

    def at_once(self: Port, source: str) -> Work:
        yield from rewind(self, source)
        self.node.disk.needed_lsn = 0

    patch.setattr(standby, "remake", remake)
    patch.setattr(Port, "rewind", at_once)


def authority_from_the_reply(patch: Patch) -> None:
    """Authority is counted from when the answer came."""
    register_read, peer_heard = seen.register_read, seen.peer_heard

    def read(state: State, register: Register | None, asked_at: float, members: Any) -> None:
        register_read(state, register, state.now, members)

    def heard(state: State, record: Record) -> None:
        peer_heard(state, record)
        peer = state.peer(record.incarnation.name)
        if peer.granted_term:
            peer.granted_at = state.now

    patch.setattr(step, "register_read", read)
    patch.setattr(step, "peer_heard", heard)


def open_before_the_barrier(patch: Patch) -> None:
    """Clients are let in as soon as the server is a primary."""
    whole = primary.plan_primary

    def plan(state: State) -> None:
        whole(state)
        register = state.register
        if register is None or register.electing or state.opened:
            return
        if state.postgres.state is PgState.PRIMARY and state.pg is None:
            primary._open(state, register)  # pyright: ignore[reportPrivateUsage]

    patch.setattr(step, "plan_primary", plan)


def ineligible_leader_skipped(patch: Patch) -> None:
    """Of an ineligible member that is ahead it is overlooked that it is."""

    def choose(register: Register, cast: Mapping[Incarnation, Vote]) -> Incarnation | None:
        def humble(vote: Vote) -> Vote:
            return vote if vote.eligible else dataclasses.replace(vote, position=Position(0, 0))

        return election.choose(register, {m: humble(v) for m, v in cast.items()})

    patch.setattr(standby, "choose", choose)


def lost_cas_settled_by_a_read(patch: Patch) -> None:
    """A primary that starts again believes a read, though its own handover may still land."""
    whole = primary._restart  # pyright: ignore[reportPrivateUsage]

    def restart(state: State, register: Register) -> None:
        if state.now - state.read_at < 1.0:
            state.written_seq = register.seq
        whole(state, register)

    patch.setattr(primary, "_restart", restart)


def seal_lifted_on_a_timeout(patch: Patch) -> None:
    """A member whose election takes too long follows the primary again."""
    whole = standby.plan_standby

    def plan(state: State) -> None:
        whole(state)
        register = state.register
        if register is None or not register.electing or state.vote is None:
            return
        if state.now - state.voted_at > 0.2:
            do(state, Follow(register.primary, register.term))

    patch.setattr(step, "plan_standby", plan)


def vote_while_promoting(patch: Patch) -> None:
    """A member that has requested a promotion seals and votes like any other."""
    whole = standby.seal_and_vote

    def vote(state: State, register: Register) -> None:
        state.durable = dataclasses.replace(state.durable, promoting=0)
        whole(state, register)

    patch.setattr(standby, "seal_and_vote", vote)
    patch.setattr(primary, "seal_and_vote", vote)


def recreated_counts(patch: Patch) -> None:
    """A node that was made anew under its name is taken for the one that it was."""

    def stranger(self: Node) -> Durable:
        return Durable(Incarnation(self.name, f"{self.name}1"))

    patch.setattr(Node, "stranger", stranger)


def older_register_accepted(patch: Patch) -> None:
    """What the DCS shows is believed, also when more was seen before."""
    whole = seen.register_read

    def read(state: State, register: Register | None, asked_at: float, members: Any) -> None:
        known = state.register
        if known and register and register.system_id == known.system_id:
            state.durable = dataclasses.replace(state.durable, register=register)
        whole(state, register, asked_at, members)

    patch.setattr(step, "register_read", read)


def rewind_without_checkpoint(patch: Patch) -> None:
    """pg_rewind reads the control file of a new primary as it was before."""

    def nothing(self: Port, source: Any) -> None:
        pass

    patch.setattr(Port, "checkpoint_at", nothing)


def no_deadline(patch: Patch) -> None:
    """The guard does not keep the authority's deadline."""

    def check(self: Guard) -> None:
        pass

    patch.setattr(Guard, "check", check)


def past_the_fork_counts(patch: Patch) -> None:
    """Who streams is counted, whatever timeline its walreceiver is on."""
    whole = durability.streaming_members

    def streaming(state: State) -> frozenset[Incarnation]:
        term = state.register.term if state.register is not None else 0
        said = {name: peer.record for name, peer in state.peers.items()}
        for name, record in said.items():
            state.peers[name].record = record and dataclasses.replace(
                record, upstream_timeline=term
            )
        found = whole(state)
        for name, record in said.items():
            state.peers[name].record = record
        return found

    patch.setattr(durability, "streaming_members", streaming)
    patch.setattr(primary, "streaming_members", streaming)


Mutant = Callable[[Patch], None]

BY_THEME: tuple[tuple[Mutant, str], ...] = (
    (one_seal_too_few, "false alarms"),
    (older_rules_dropped_at_the_appointment, "relays"),
    (rule_replaced, "crashes"),
    (no_barrier, "crashes"),
    (no_checkpoint, "crashes"),
    (stale_grants, "false alarms"),
    (barrier_on_an_old_connection, "changes"),
    (open_before_the_barrier, "crashes"),
    (older_register_accepted, "amnesia"),
    (rewind_without_checkpoint, "crashes"),
    (no_deadline, "slow DCS"),
)
"""Each mistake, and the theme whose schedules show it."""

BY_SCENE: tuple[tuple[Mutant, Callable[[int], str]], ...] = (
    (vote_without_a_seal, scenes.succession_while_the_primary_works),
    (vote_before_the_walreceiver_is_gone, scenes.succession_while_the_primary_works),
    (term_blind, scenes.successor_dies_while_the_old_primary_comes_back),
    (rejoin_before_the_barrier, scenes.return_before_the_barrier),
    (handover_unproved, scenes.handover_to_one_that_is_behind),
    (restore_command_left_on, scenes.sealed_beside_the_archive),
    (unsynced_seal, scenes.voter_dies),
    (recreated_counts, scenes.voter_is_made_anew),
    (rule_before_cas, scenes.names_without_their_rule),
    (rewound_counts, scenes.rewound_member_votes),
    (authority_from_the_reply, scenes.stale_answer),
    (ineligible_leader_skipped, scenes.furthest_may_not_succeed),
    (lost_cas_settled_by_a_read, scenes.handover_lands_late),
    (seal_lifted_on_a_timeout, scenes.succession_while_the_primary_works),
    (vote_while_promoting, scenes.promotion_outlasts_its_term),
    (past_the_fork_counts, scenes.follower_past_the_fork),
)
"""Each mistake, and the play that leads to where it shows."""
