"""Transactions on lists: what they appended and read."""

from dataclasses import dataclass

from tests.cluster.checkers.history import Op


@dataclass(frozen=True, slots=True)
class Append:
    """`value` is used once in the whole history."""

    key: int
    value: int


@dataclass(frozen=True, slots=True)
class ReadList:
    """What the list of `key` was; () where it did not exist."""

    key: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction(Op):
    """Steps in their order. On a `standby`: one snapshot that was read there, any age."""

    steps: tuple[Append | ReadList, ...]
    standby: bool = False

    def reads(self) -> list[ReadList]:
        """Return what was read."""
        return [step for step in self.steps if isinstance(step, ReadList)]

    def appends(self) -> list[Append]:
        """Return what was appended, or tried to be."""
        return [step for step in self.steps if isinstance(step, Append)]

    def others(self) -> list[ReadList]:
        """Return what was read, without what this transaction had appended itself."""
        mine = {append.value for append in self.appends()}
        return [ReadList(r.key, tuple(v for v in r.values if v not in mine)) for r in self.reads()]
