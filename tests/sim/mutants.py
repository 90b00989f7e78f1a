"""Planted mistakes: each breaks one rule of the protocol, and some schedule has to show it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from pgregent.core import durability, election, primary, publish, standby, switchover
from pgregent.core.events import Sealed
from pgregent.core.types import Incarnation, Position, Register, Rule, Vote
from pgregent.core.view import State
from tests.sim.port import Port
from tests.sim.world import Work

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

    def apply(self: Port, names: str, checkpoint: bool) -> Work:
        yield from apply_names(self, names, False)

    patch.setattr(Port, "apply_names", apply)


def stale_grants(patch: Patch) -> None:
    """Authority never runs out."""

    def forever(state: State) -> None:
        return None

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
    patch.setattr(standby, "_primary_serves", always)


def handover_unproved(patch: Patch) -> None:
    """The successor's log is not looked at."""
    whole = switchover.candidate

    def candidate(state: State) -> Any:
        heir = whole(state)
        return heir and dataclasses.replace(heir, replay_lsn=10**12)

    patch.setattr(switchover, "candidate", candidate)
