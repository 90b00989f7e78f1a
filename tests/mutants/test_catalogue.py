"""The catalogue keeps up with the source, and its runner is not fooled."""

import ast

import pytest

from tests.mutants.catalogue import GATE, MUTANTS, Mutant, Schedules
from tests.mutants.run import ROOT, judge, plant, survived

ROUTES = GATE + "test_to_the_primary_of_the_newest_register"


def of_gate(old: str, new: str, says: str = "is None") -> Mutant:
    return Mutant("a mistake", "core/gate.py", old, new, "it is planted", ROUTES, says)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_its_catcher_exists(mutant: Mutant) -> None:
    path = ROOT / "src" / "pgregent" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} has changed: bring the mutant up to date"
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    if not isinstance(mutant.caught_by, Schedules):
        file, _, test = mutant.caught_by.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        names = {getattr(node, "name", "") for node in tree.body}
        assert test.partition("[")[0] in names, f"{file} has no {test}"


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_copy_is_what_is_judged() -> None:
    """And not the checkout's pgregent, which is installed."""
    mutant = of_gate("    if newest.electing:", "    if not newest.electing:", says="None == ('n1'")
    assert survived(mutant, judge(ROUTES, mutant)) == ""
    assert judge(ROUTES).passed


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        (of_gate("    if newest.electing:", "    if bool(newest.electing):"), "nobody noticed"),
        (of_gate("import PgState,", "import Nothing, PgState,"), "not an assertion: "),
        (of_gate("    if newest.electing:", "    if newest.elect:"), "not an assertion: Attribute"),
        (of_gate("    if newest.electing:", "    if not newest.electing:", "S1: "), "expected 'S1"),
    ],
    ids=["harmless", "not importable", "not runnable", "another assertion"],
)
def test_a_mutant_that_is_not_caught_by_what_was_expected_survives(
    mutant: Mutant, why: str
) -> None:
    assert survived(mutant, judge(ROUTES, mutant)).startswith(why)


def test_a_test_that_is_not_there_catches_nothing() -> None:
    outcome = judge(GATE + "test_nothing")
    assert not outcome.passed and "nothing was run" in outcome.errors[0]


def test_a_text_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="0 times, expected once"):
        plant(of_gate("no such text", ""), ROOT / "src" / "pgregent")
