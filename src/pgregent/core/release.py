"""Giving a cluster back to Patroni: what is refused, and what is written.

The register is not removed but replaced by one that is released, because an agent that still has an
older one on its disk would write that again into an empty DCS. Only the primary's own host does it,
once its PostgreSQL is stopped: nobody else can acknowledge a commit, nobody can be appointed
without the register, and an agent that was cut off holds back nothing but a standby. Where no agent
has acted on an adoption's register, nothing of it is in force, and whatever runs is Patroni's.
"""

from dataclasses import dataclass

from pgregent.core.adoption import is_untouched
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
    """In place of the register with the seq `expected`, put `register`."""

    expected: int
    register: Register


def release(
    own: Durable,
    data: Stopped,
    register: Register | None,
    *,
    live: tuple[str, ...],
    patroni: tuple[str, ...],
) -> GiveBack | None:
    """What is written before this member's files are given back to Patroni; None: the register is
    released already. `live`: members whose agents run, `patroni`: those whose Patroni does. Raises
    Refused: then nothing may be touched."""
    if live:
        raise Refused(
            f"agents of this cluster still run: {', '.join(live)}; stop all of them first, and "
            "where one was killed, wait until its key is gone (10 s)"
        )
    if register is None:
        raise Refused(
            "the DCS has no register of this cluster: there is nothing to give back; start the "
            "agents if it was emptied: they write it again"
        )
    if register.released:
        return None
    untouched = is_untouched(register)
    if patroni and not untouched:
        raise Refused(f"Patroni runs in this scope already: {', '.join(patroni)}; stop it first")
    if register.electing or register.term == 0:
        raise Refused(
            "the cluster has no primary now, an election is under way: start the agents, and stop "
            "them once there is one"
        )
    name = register.primary.name
    if own.incarnation != register.primary:
        raise Refused(f"release the primary's host first, which is {name}'s")
    as_it_left = data.clean and data.was_primary and data.timeline == register.term
    if not (untouched or as_it_left):
        raise Refused(
            f"{name}'s PostgreSQL was not shut down cleanly as the primary of term "
            f"{register.term}: start the agents, and stop them again, {name}'s last"
        )
    released = Register(
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
    return GiveBack(register.seq, released)
