"""What the tests measured, for the terminal. Nothing is asserted of it: machines are shared."""

from tests.compose.load import Load, outage_ms

noted: list[tuple[str, float]] = []


def note(fault: str, running: Load) -> None:
    """Keep how long writes were out around the fault."""
    noted.append((fault, outage_ms(running)))
