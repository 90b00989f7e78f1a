"""These tests need a container engine; where there is none they say so and are counted."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.compose import engine, figures


@pytest.fixture(scope="session", autouse=True)
def images() -> None:
    """The engine with the images that the Compose files name."""
    why = engine.why_not()
    if why:
        pytest.skip(why)
    if not all(engine.has_image(name) for name in (engine.BASE, *engine.STAND_INS)):
        if not engine.has_image(engine.BASE):
            pytest.skip(f"{engine.BASE} is not here, and nothing can stand in for the images")
        engine.make_images()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how long writes were out."""
    if figures.noted:
        terminalreporter.section("writes out through the entry point")
    for fault, milliseconds in figures.noted:
        terminalreporter.line(f"{milliseconds:8.0f} ms  {fault}")
