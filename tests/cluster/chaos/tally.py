"""The tally of all rounds: docs/proof/chaos.json, and its table in docs/proof.md."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.cluster.chaos.rounds import Round
from tests.cluster.checkers import median, percentile
from tests.sim.tally import core_hash

ROOT = Path(__file__).resolve().parents[3]
TALLY = ROOT / "docs" / "proof" / "chaos.json"
PAGE = ROOT / "docs" / "proof.md"
_BEGIN, _END = "<!-- chaos -->", "<!-- end of chaos -->"


def read(core: str, path: Path = TALLY) -> dict[str, Any]:
    """Return the rounds that were played on this core; an empty tally for a new one."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        if found["core"] == core:
            return found
    return {"core": core, "rounds": []}


def add(played: Round, core: str, path: Path = TALLY) -> bool:
    """Append a round that was begun on `core`; False, and nothing, if that has changed since."""
    if core_hash() != core:
        return False
    line = asdict(played)
    line["violations"] = len(played.violations)
    line["outages"] = {entry: round(gap, 3) for entry, gap in played.outages.items()}
    line["resumed_s"] = round(played.resumed_s, 3)
    line["redundant_s"] = round(played.redundant_s, 3)
    del line["told"]
    rounds = [*read(core, path)["rounds"], line]
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(line) for line in rounds)
    new = path.with_suffix(".new")
    new.write_text(f'{{"core": "{core}", "rounds": [\n{lines}\n]}}\n')
    new.rename(path)
    return True


def _figures(rounds: list[dict[str, Any]]) -> list[str]:
    outages = [max(r["outages"].values(), default=0.0) for r in rounds]
    resumed = max(r["resumed_s"] for r in rounds)
    shown = (median(outages), percentile(outages, 99), max(outages), resumed)
    whole = max(r["redundant_s"] for r in rounds)
    counts = [sum(r[key] for r in rounds) for key in ("acknowledged", "unknown", "violations")]
    return [*(f"{value:.2f}" for value in shown), f"{whole:.1f}", *map(str, counts)]


_HEADER = (
    *("nemesis", "rounds", "of them in pairs", "outage median s", "99th", "worst"),
    *("acknowledged after healing s, worst", "whole again s, worst"),
    *("acknowledged", "in doubt", "violations"),
)


def _counted(what: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(what.items()))


def table(tally: dict[str, Any]) -> str:
    """Return the tally as Markdown."""
    rounds: list[dict[str, Any]] = tally["rounds"]
    if not rounds:
        return "No round has been played on this core yet.\n"
    rows: list[list[str]] = []
    for name in sorted({name for r in rounds for name in r["nemeses"]}):
        struck = [r for r in rounds if name in r["nemeses"]]
        pairs = sum(len(r["nemeses"]) > 1 for r in struck)
        rows.append([name, str(len(struck)), str(pairs), *_figures(struck)])
    pairs = sum(len(r["nemeses"]) > 1 for r in rounds)
    rows.append(["**all rounds**", str(len(rounds)), str(pairs), *_figures(rounds)])
    lines = [_HEADER, ["---"] * len(_HEADER), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    points = Counter(r["point"] for r in rounds if r["point"])
    used = Counter(r["workload"] for r in rounds)
    # Rounds without it are older than the choice.
    stores = Counter(r.get("dcs", "zookeeper") for r in rounds)
    return (
        f"Core `{tally['core']}`.\n\n{text}\n"
        f"Agents killed at a point: {_counted(points) or 'none'}.\n\n"
        f"Workloads: {_counted(used)}.\n\n"
        f"DCS: {_counted(stores)}.\n"
    )


def report(page: Path = PAGE, path: Path = TALLY) -> None:
    """Put the table between the marks of the page."""
    text = page.read_text()
    head, _, rest = text.partition(_BEGIN)
    _, mark, tail = rest.partition(_END)
    assert mark, f"{page} has no place for the tally: {_BEGIN} … {_END}"
    page.write_text(f"{head}{_BEGIN}\n{table(read(core_hash(), path))}{mark}{tail}")
