"""How long writes through HAProxy are out in deploy/compose, two nodes with the seed's YAML.

python -m bench.compose --rounds 6
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.tables import Figures, markdown, say
from tests.compose import engine, faults, figures
from tests.compose.test_two_nodes import COMPOSE, mounts_of_the_seed

FAULTS: tuple[Callable[[str], faults.Undo], ...] = (
    faults.stop,
    faults.kill,
    faults.pause,
    faults.disconnect,
)


def run(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round by fault. AssertionError where a row was lost."""
    why = engine.why_not()
    if why:
        raise SystemExit(f"python -m bench.compose: {why}")
    engine.make_images()
    found: dict[str, list[float]] = {fault.__name__: [] for fault in FAULTS}
    with tempfile.TemporaryDirectory() as directory:
        override = mounts_of_the_seed(Path(directory))
        with engine.Project("pgregentbench", engine.DEPLOY, *COMPOSE, override) as project:
            project.up()
            engine.until("the cluster is whole", engine.healthy)
            for number in range(rounds):
                for kind, fault in enumerate(FAULTS):
                    first = (number * len(FAULTS) + kind) * 100
                    faults.fail_over(engine.NODES, first, fault)
                    found[fault.__name__].append(figures.noted[-1][1])
                    say(f"round {number + 1}, {fault.__name__}: {found[fault.__name__][-1]:.0f} ms")
    return found


def report(found: dict[str, list[float]]) -> str:
    """As Markdown."""
    header = ("docker … of the primary", "rounds", "median ms", "95th ms", "worst ms", "lost")
    rows = [[name, *Figures(values).cells(), "0"] for name, values in found.items()]
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compose", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="of every fault")
    print(report(run(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
