"""python -m tests.sim.run --seeds 1-100 [--trace]: play schedules and tell which went wrong."""

import argparse
import collections
import sys
import time

from tests.sim.schedule import play


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1-50", help="A-B or A")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    began = time.monotonic()
    bad, events, played, acked, terms = 0, 0, 0, 0, 0
    ways: collections.Counter[str] = collections.Counter()
    for seed in range(int(first), int(last or first) + 1):
        if time.monotonic() - began > options.limit:
            break
        outcome = play(seed)
        played, events, acked = played + 1, events + outcome.events, acked + outcome.acked
        terms += outcome.terms
        ways.update(outcome.ways)
        if options.trace:
            print(outcome.transcript)
        if outcome.problem:
            bad += 1
            print(f"seed {seed} ({outcome.terms} terms): {outcome.problem}", flush=True)
    took = time.monotonic() - began
    print(
        f"{played} schedules, {events} events, {acked} writes, {terms} terms, {bad} bad, "
        f"{took:.1f} s; {ways}"
    )
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
