"""Tapes as files: short, and readable beside the story that they play."""

import json
from pathlib import Path
from typing import Any, cast

from pgregent.core.errors import Refused
from tests.sim.schedule import FAULTS
from tests.sim.tape import Choice, Strike, Tape

REGRESSIONS = Path(__file__).parent / "regressions"
"""Each is played by the tests, and has to end well."""

_KEYS = {"shows": str, "seed": int, "noise": int, "choices": dict, "strikes": list}


def save(tape: Tape, path: Path, shows: str) -> None:
    """Write the tape; `shows` says in a sentence what it showed. Replaces an older file."""
    assert tape.strikes is not None
    strikes = [json.dumps([s.at, s.fault, s.seed]) for s in tape.strikes]
    lines = ",\n".join(f"    {line}" for line in strikes)
    text = (
        "{\n"
        f'  "shows": {json.dumps(shows)},\n'
        f'  "seed": {tape.seed},\n'
        f'  "noise": {tape.noise},\n'
        f'  "choices": {json.dumps(tape.choices)},\n'
        f'  "strikes": [{chr(10) + lines + chr(10) + "  " if strikes else ""}]\n'
        "}\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def load(path: Path) -> tuple[Tape, str]:
    """A tape and what it shows. Refused if the file is none."""
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Refused(f"{path}: cannot be read as a tape: {error}") from error
    if not isinstance(found, dict):
        raise Refused(f"{path}: expected an object with {', '.join(_KEYS)}")
    given = cast("dict[str, Any]", found)
    for key, kind in _KEYS.items():
        if type(given.get(key)) is not kind:
            raise Refused(f"{path}: {key}: expected {kind.__name__}, found {given.get(key)!r}")
    strikes = tuple(_strike(path, entry) for entry in given["strikes"])
    choices = cast("dict[str, Choice]", given["choices"])
    return Tape(given["seed"], choices, strikes, given["noise"]), given["shows"]


def _strike(path: Path, entry: Any) -> Strike:
    match entry:
        case [int() | float() as at, str() as fault, int() as seed] if fault in FAULTS:
            return Strike(float(at), fault, seed)
        case _:
            raise Refused(
                f"{path}: strikes: {entry!r} is not [seconds, fault, seed] with one of the faults "
                f"{', '.join(FAULTS)}"
            )
