"""Runs one catcher on the source that it stands in, and says in one line of JSON what came of it.

    python -m tests.mutants.catch test NODE
    python -m tests.mutants.catch schedules THEME LAST

For `run`, in a copy of src/ and tests/: it refuses to judge any other pgregent than its own copy's.
"""

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import pgregent

HERE = Path(__file__).resolve().parents[2]


class Failures:
    """A pytest plugin: what the failed assertions said, and what went wrong otherwise."""

    def __init__(self) -> None:
        self.ran = 0
        self.said: list[str] = []
        self.errors: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.ran += call.when == "call" and not report.skipped
        if call.excinfo is not None and not report.skipped:
            error = call.excinfo.value
            asserts = isinstance(error, AssertionError | pytest.fail.Exception)
            heard = self.said if asserts and call.when == "call" else self.errors
            heard.append(f"{type(error).__name__}: {error}")
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(str(report.longrepr))


def run_test(node: str) -> dict[str, Any]:
    """Run a test, or all cases of one."""
    failures = Failures()
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(HERE), node]
    code = pytest.main(arguments, plugins=[failures])
    if not failures.ran and not failures.errors:
        failures.errors.append(f"nothing was run (pytest's exit code {int(code)})")
    return {"said": failures.said, "errors": failures.errors}


def run_schedules(theme: str, last: int) -> dict[str, Any]:
    """Play schedules until one breaks an invariant. What does not heal is not counted here."""
    from tests.sim.schedule import play

    for seed in range(1, last + 1):
        problem = play(seed, theme).problem
        if problem.startswith("S"):
            return {"said": [f"seed {seed}: {problem}"], "errors": []}
    return {"said": [], "errors": []}


def main() -> int:
    """The result goes to the last line of the standard output."""
    imported = Path(pgregent.__file__).resolve()
    if not imported.is_relative_to(HERE):
        found: dict[str, Any] = {"said": [], "errors": [f"{imported} was imported, not {HERE}"]}
    elif sys.argv[1] == "test":
        found = run_test(sys.argv[2])
    else:
        found = run_schedules(sys.argv[2], int(sys.argv[3]))
    print("\n" + json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
