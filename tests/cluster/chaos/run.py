"""A run: rounds that are all drawn from one seed, on one cluster after the other."""

import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.chaos.cluster import ChaosCluster
from tests.cluster.chaos.links import LINKS
from tests.cluster.chaos.machines import MACHINES, DiskFrozen
from tests.cluster.chaos.nemesis import SIGNALS, Nemesis
from tests.cluster.chaos.rounds import Player, Round
from tests.cluster.chaos.settings import drawn
from tests.cluster.workloads import WORKLOADS

NEMESES = {kind.name: kind for kind in (*SIGNALS, *LINKS, *MACHINES)}
_ROUNDS_OF_A_CLUSTER = (8, 16)
PAIRS = 0.4


def say(text: str) -> None:
    print(text, flush=True)


@dataclass(slots=True)
class Run:
    """All rounds of one run, drawn from its seed."""

    seed: int
    rounds: int
    limit_s: float
    nodes: int | None
    dcs: str | None
    only: list[str]
    pairs: float
    workload: str | None
    evidence: Path
    record: Callable[[Round], None]
    played: list[Round] = field(default_factory=list[Round])
    failures: int = 0

    _rng: random.Random = field(init=False)
    _deck: Iterator[type[Nemesis]] = field(init=False)
    _until: float = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._deck = self._deal()
        self._until = time.monotonic() + self.limit_s

    def _deal(self) -> Iterator[type[Nemesis]]:
        """Every nemesis once, in some order; then again."""
        while True:
            kinds = [NEMESES[name] for name in self.only or NEMESES]
            self._rng.shuffle(kinds)
            yield from kinds

    def _next(self) -> list[type[Nemesis]]:
        kinds = [next(self._deck)]
        if self._rng.random() < self.pairs and len(self.only) != 1:
            other = next(self._deck)
            kinds += [other] if other is not kinds[0] else []
        # A disk that is frozen cannot be filled.
        return sorted(kinds, key=lambda kind: kind is DiskFrozen)

    def over(self) -> bool:
        """Whether all rounds were played, or the time is up."""
        return len(self.played) >= self.rounds or time.monotonic() > self._until

    async def play(self, bin_dir: Path) -> None:
        """Play all rounds, on one cluster after the other."""
        while not self.over():
            settings = drawn(self._rng, self.nodes, self.dcs)
            say(f"new cluster: {settings}")
            cluster = ChaosCluster(bin_dir, settings)
            try:
                cluster.start()
                player = Player(cluster, random.Random(self._rng.random()))
                try:
                    await self._play_on(player)
                finally:
                    player.close()
            finally:
                cluster.close()

    async def _play_on(self, player: Player) -> None:
        for _ in range(self._rng.randint(*_ROUNDS_OF_A_CLUSTER)):
            if self.over():
                return
            kinds = self._next()
            workload = self.workload
            if workload is None:
                workload = self._rng.choice(sorted(WORKLOADS))
            began = time.monotonic()
            number = len(self.played) + 1
            try:
                found = await player.play(kinds, workload)
            except (AssertionError, OSError, TimeoutError) as error:
                found = Round([kind.name for kind in kinds], workload, player.cluster.settings.dcs)
                found.violations.append(f"{type(error).__name__}: {error}")
                say(traceback.format_exc())
            self.played.append(found)
            self.record(found)
            outages = ", ".join(f"{name} {gap:.2f}" for name, gap in found.outages.items())
            say(
                f"{number}/{self.rounds} {found.told or found.nemeses} [{workload}]: outage "
                f"{outages} s, after healing {found.resumed_s:.2f} s, whole after "
                f"{found.redundant_s:.1f} s; {found.acknowledged} acknowledged, {found.unknown} in"
                f" doubt, {len(found.violations)} violations ({time.monotonic() - began:.0f} s)"
                + (f" point: {found.point}" if found.point else "")
            )
            if found.violations:
                self.failures += 1
                self._keep(player, found)
                return

    def _keep(self, player: Player, found: Round) -> None:
        """Copy everything that tells what happened, and say where."""
        cluster = player.cluster
        to = self.evidence / f"round-{len(self.played)}"
        to.mkdir(parents=True)
        for log in [*cluster.base.glob("*.log"), *cluster.base.glob("*.yml")]:
            shutil.copy(log, to)
        for name, disk in cluster.disks.items():
            for folder in ("log", "data.pgregent"):
                if (disk.place / folder).is_dir():
                    shutil.copytree(disk.place / folder, to / name / folder, ignore=_sockets)
        (to / "history").write_text("\n".join(map(str, player.history)))
        (to / "violations").write_text("\n".join([found.told, *found.violations]))
        for violation in found.violations[:10]:
            say(f"  {violation}")
        say(f"  seed {self.seed}, round {len(self.played)}; everything about it: {to}")


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
