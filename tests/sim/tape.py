"""What a run is made of: a seed, what was chosen once for it, and what struck when.

A tape is written while a seed is played, and can be played again, whole or with pieces left out.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

Choice = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that strikes at `at` (virtual seconds); `seed` is of all that it chooses itself."""

    at: float
    fault: str
    seed: int


class Tape:
    """Either blank: then all follows from the seed and is written down; or with strikes given:
    then these are played, and whatever was not chosen is at its calmest."""

    def __init__(
        self,
        seed: int,
        choices: dict[str, Choice] | None = None,
        strikes: tuple[Strike, ...] | None = None,
        noise: int = 0,
    ) -> None:
        self.seed = seed
        self.noise = noise
        """Another one gives other delays, and the same choices and strikes."""
        self.choices = dict(choices or {})
        self.calmest: dict[str, Choice] = {}
        """The first option of everything that was asked for."""
        self.strikes = strikes
        self.written: list[Strike] = []
        """What struck so far."""

    @property
    def noise_seed(self) -> str:
        return f"{self.seed}/{self.noise}"

    @property
    def is_blank(self) -> bool:
        return self.strikes is None

    def choose(self, name: str, *options: Any) -> Any:
        """One of the options, once per run and name; the first is the calmest. An option that is
        there twice is twice as likely."""
        self.calmest[name] = options[0]
        if self.is_blank and name not in self.choices:
            self.choices[name] = options[self._number(name) % len(options)]
        return self.choices.get(name, options[0])

    def _number(self, name: str) -> int:
        """By name, so that a choice that is new, or gone, leaves the others as they are."""
        text = f"{self.seed} {name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")

    def recorded(self) -> "Tape":
        """What was played, to be played again: what struck, and the choices that are not calm."""
        choices = {n: v for n, v in self.choices.items() if self.calmest.get(n) != v}
        return Tape(self.seed, choices, tuple(self.written), self.noise)
