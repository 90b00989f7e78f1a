"""Time as the agent knows it."""

from typing import Protocol


class Clock(Protocol):
    """`now` goes on while the machine is suspended and is never set back."""

    def now(self) -> float:
        """Seconds on CLOCK_BOOTTIME."""
        ...

    def epoch(self) -> float:
        """Seconds since 1970, for people."""
        ...
