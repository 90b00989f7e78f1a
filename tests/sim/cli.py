"""pgregent-sim: play schedules of the real core, look at them, cut them down."""

import re
import sys
from pathlib import Path

import click

from pgregent.core.errors import Refused
from tests.sim.nightly import TALLY, Proof
from tests.sim.pool import cores, play_on_all_cores
from tests.sim.schedule import ONE_FAULT, THEMES, Outcome, play, replay
from tests.sim.shrink import shrink as shrunk
from tests.sim.tally import ENOUGH, Tally
from tests.sim.tape import Tape
from tests.sim.tapefile import REGRESSIONS, load, save
from tests.sim.world import transcript

SHRINK_SECONDS = 60.0
"""For one of the failures of a run."""
SHRUNK_AT_MOST = 5
"""Tapes that one run keeps: most of many failures are the same one."""

theme_option = click.option(
    "--theme",
    default="",
    type=click.Choice(["", *THEMES, ONE_FAULT, "anything"]),
    show_choices=False,
    metavar="THEME",
    help=f"Only this kind of trouble: {', '.join([*THEMES, ONE_FAULT, 'anything'])}.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 1024), default=None, help="Processes. [default: all cores]"
)
keep_option = click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    default=REGRESSIONS,
    help="Where tapes are kept. [default: tests/sim/regressions, whose tapes the tests play]",
)


class Seeds(click.ParamType[range]):
    """A-B or A."""

    name = "A-B"

    def convert(
        self, value: str | range, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
        seeds = range(int(found[1]), int(found[2] or found[1]) + 1) if found else range(0)
        if not seeds:
            self.fail(f"{value!r} is neither a seed nor a range A-B of seeds", param, ctx)
        return seeds


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def main() -> None:
    """Play schedules of the real core in a simulated world.

    A seed decides everything: the cluster, its settings, which faults strike when, every delay. The
    same seed plays the same run, here and elsewhere.
    """


@main.command()
@click.option("--seeds", type=Seeds(), default="1-200", show_default=True, help="Which to play.")
@theme_option
@jobs_option
@click.option("--limit", type=click.FloatRange(min=0), help="Seconds after which none is begun.")
@keep_option
@click.option("--shrink/--no-shrink", "cut", default=True, help="Keep short tapes of failures.")
def run(
    *, seeds: range, theme: str, jobs: int | None, limit: float | None, keep: Path, cut: bool
) -> None:
    """Play many schedules; exit 1 if one fails, or if something that can strike never did."""
    tally = Tally()
    parts = play_on_all_cores(
        seeds.start, seeds.stop - 1, jobs=jobs or cores(), seconds=limit, theme=theme
    )
    for _, part in parts:
        tally.add(part)
        for seed, problem in part.bad.items():
            click.echo(f"seed {seed}: {problem}")
    failed = _report(tally, with_missing=not theme)
    if cut:
        for seed in sorted(tally.bad)[:SHRUNK_AT_MOST]:
            _shrink(play(seed, theme), keep / f"seed-{seed}.json", SHRINK_SECONDS)
    sys.exit(failed)


def _report(tally: Tally, *, with_missing: bool) -> bool:
    """Print the sums; whether something is wrong."""
    speed = tally.schedules / tally.cpu_s if tally.cpu_s else 0.0
    _table("struck", tally.struck)
    _table("while there was", tally.during)
    click.echo(
        f"{tally.schedules} schedules, {tally.events} events (at least {tally.fewest_events} each),"
        f" {tally.acked} acknowledged writes, {tally.terms} terms; {speed:.1f} schedules and "
        f"{tally.events / max(tally.cpu_s, 0.001):,.0f} events per second and core; "
        f"{len(tally.bad)} bad"
    )
    missing = tally.missing() if with_missing else []
    for name in missing:
        click.echo(f"never struck in {tally.schedules} schedules: {name}")
    if with_missing and tally.schedules < ENOUGH:
        click.echo(f"(whether everything struck is asked from {ENOUGH} schedules on)")
    return bool(tally.bad or missing)


def _table(title: str, counts: dict[str, int]) -> None:
    click.echo(f"{title}:")
    for name, number in sorted(counts.items(), key=lambda item: -item[1]):
        click.echo(f"  {number:9} {name}")


@main.command("replay")
@click.argument("what", metavar="SEED|FILE")
@theme_option
@click.option("--who", default="", metavar="n1,n2,…", help="Only these: n1, …, dcs, *, !, CHECK.")
def replay_command(what: str, theme: str, who: str) -> None:
    """Print the story of a run: who did what, and when. Exit 1 if it ends badly.

    In the second column: nodes by name; dcs: the register; *: the world; !: a fault that strikes
    now; CHECK: what was found wrong.
    """
    outcome = _played(what, theme)
    names = [name for name in who.split(",") if name]
    click.echo(transcript(outcome.story, *names))
    _summary(outcome)
    sys.exit(bool(outcome.problem))


def _played(what: str, theme: str) -> Outcome:
    if what.isdecimal():
        return play(int(what), theme)
    if theme:
        raise click.UsageError("--theme is for seeds; a tape has its own")
    try:
        tape, _ = load(Path(what))
    except Refused as refused:
        raise click.UsageError(str(refused)) from refused
    return replay(tape)


def _summary(outcome: Outcome) -> None:
    tape = outcome.tape
    click.echo(f"\nsettings that are not the calmest: {_choices(tape)}")
    click.echo("what struck: " + ", ".join(f"{s.at:.3f} {s.fault}" for s in tape.strikes or ()))
    click.echo("counted: " + ", ".join(f"{n} x{c}" for n, c in outcome.struck.most_common()))
    click.echo(
        f"{outcome.events} events, {outcome.terms} terms, {outcome.acked} acknowledged writes: "
        f"{outcome.problem or 'all is well'}"
    )


def _choices(tape: Tape) -> str:
    return ", ".join(f"{name} {value}" for name, value in tape.choices.items())


@main.command("shrink")
@click.argument("what", metavar="SEED|FILE")
@theme_option
@click.option("--name", default="", help="Of the tape. [default: seed-SEED, or FILE's own]")
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True)
@keep_option
def shrink_command(what: str, theme: str, name: str, seconds: float, keep: Path) -> None:
    """Cut a run that fails down to a short tape that fails in the same way, and keep that."""
    outcome = _played(what, theme)
    if not outcome.problem:
        raise click.UsageError(f"{what} ends well: there is nothing to shrink")
    if not re.fullmatch(r"[\w.-]*", name):
        raise click.UsageError(f"--name {name!r}: expected letters, digits, -, _ and .")
    own = f"seed-{what}" if what.isdecimal() else Path(what).stem
    _shrink(outcome, keep / f"{name or own}.json", seconds)


def _shrink(outcome: Outcome, path: Path, seconds: float) -> None:
    tape, problem = shrunk(outcome.tape, seconds)
    save(tape, path, problem)
    before, after = len(outcome.tape.strikes or ()), len(tape.strikes or ())
    click.echo(f"{path}: {after} strikes of {before}, settings: {_choices(tape)}: {problem}")


@main.command()
@click.option("--schedules", type=click.IntRange(1), default=300_000, show_default=True)
@click.option("--limit", type=click.FloatRange(min=0), help="Seconds after which none is begun.")
@jobs_option
@click.option("--tally", "path", type=click.Path(dir_okay=False, path_type=Path), default=TALLY)
@keep_option
def nightly(
    *, schedules: int, limit: float | None, jobs: int | None, path: Path, keep: Path
) -> None:
    """Play new seeds until the core as it is now has stood so many; Ctrl-C to go on later.

    The sums are kept in docs/proof/simulation.json with a hash of src/pgregent/core; when that has
    changed they begin anew.
    """
    try:
        proof = Proof(path)
    except Refused as refused:
        raise click.UsageError(str(refused)) from refused
    had = len(proof.tally.bad)
    try:
        proof.play(schedules, jobs or cores(), lambda p: _progress(p, schedules), limit)
    except KeyboardInterrupt:
        click.echo("\nstopped; what was played is kept")
    click.echo("")
    failed = _report(proof.tally, with_missing=True)
    for seed in sorted(proof.tally.bad)[had:][:SHRUNK_AT_MOST]:
        _shrink(play(seed), keep / f"seed-{seed}.json", SHRINK_SECONDS)
    sys.exit(failed)


def _progress(proof: Proof, schedules: int) -> None:
    tally = proof.tally
    done = f"core {proof.core}: {tally.schedules} of {schedules} schedules"
    click.echo(f"\r{done}, {len(tally.bad)} bad, seed {proof.next - 1} ", nl=False)


if __name__ == "__main__":
    main(prog_name="pgregent-sim")
