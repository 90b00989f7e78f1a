"""Giving a cluster back to Patroni: what is refused, and what is written.

The register is not removed but replaced by one that is released, because an agent that still has an
older one on its disk would write that again into an empty DCS. Only the primary's own host does it,
once its PostgreSQL is stopped: nobody else can acknowledge a commit, nobody can be appointed
without the register, and an agent that was cut off holds back nothing but a standby. Where no agent
has acted on an adoption's register, or Patroni has made a primary since, nothing of it is in force,
and whatever runs is Patroni's.
"""

from dataclasses import dataclass

from pgregent.core.adoption import PatronisWord, is_untouched, overtaken
from pgregent.core.errors import Refused
from pgregent.core.types import NOBODY, Durable, Register


@dataclass(frozen=True, slots=True)
class Stopped:
    """How this member's data directory was left, if no server runs there."""

    timeline: int
    clean: bool
    was_primary: bool


@dataclass(frozen=True, slots=True)
class GiveBack:
    """In place of the register with the seq `expected` (0: none), put `register`. `in_office`:
    whether nobody but this member can have newer commits."""

    expected: int
    register: Register
    in_office: bool


def release(
    own: Durable,
    data: Stopped,
    register: Register | None,
    *,
    live: tuple[str, ...],
    word: PatronisWord,
) -> GiveBack | None:
    """What is written before this member's files are given back to Patroni; None: the register is
    released already. `live`: members whose agents run. Raises Refused: then nothing may be
    touched."""
    if live:
        raise Refused(
            f"agents of this cluster still run: {', '.join(live)}; stop all of them first, and "
            "where one was killed, wait until its key is gone (10 s)"
        )
    if register is not None and register.released:
        return None
    known = register or own.register
    late = known is not None and bool(overtaken(known, word))
    if known is None or (register is None and not late):
        raise Refused(
            "the DCS has no register of this cluster: there is nothing to give back; start the "
            "agents if it was emptied: they write it again"
        )
    in_office = not late and not is_untouched(known)
    if in_office:
        _check_in_office(own, data, known, word)
    # Patroni's primary may be all that is left.
    elif not late and own.incarnation != known.primary:
        raise Refused(f"release the primary's host first, which is {known.primary.name}'s")
    expected = register.seq if register is not None else 0
    return GiveBack(expected, _released(own.incarnation.name, known), in_office)


def _check_in_office(own: Durable, data: Stopped, register: Register, word: PatronisWord) -> None:
    if word.running:
        running = ", ".join(word.running)
        raise Refused(f"Patroni runs in this scope already: {running}; stop it first")
    if register.electing or register.term == 0:
        raise Refused(
            "the cluster has no primary now, an election is under way: start the agents, and stop "
            "them once there is one"
        )
    name = register.primary.name
    if own.incarnation != register.primary:
        raise Refused(f"release the primary's host first, which is {name}'s")
    if not (data.clean and data.was_primary and data.timeline == register.term):
        raise Refused(
            f"{name}'s PostgreSQL was not shut down cleanly as the primary of term "
            f"{register.term}: start the agents, and stop them again, {name}'s last"
        )


def _released(name: str, register: Register) -> Register:
    return Register(
        seq=register.seq + 1,
        round=register.round,
        term=0,
        primary=NOBODY,
        rules=(),
        electing=False,
        system_id=register.system_id,
        terms=(),
        why=f"the cluster was given back to Patroni on {name}'s host",
        released=True,
    )
