"""Many schedules on all cores, in order, until somebody says stop."""

import gc
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count

from tests.sim.schedule import play
from tests.sim.tally import Tally

CHUNK = 20
"""Schedules that a process plays at a time: a second or two."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def play_all(seeds: range, theme: str = "") -> Tally:
    """Play them one after the other, in this process."""
    tally, began = Tally(), time.process_time()
    for seed in seeds:
        try:
            tally.count(seed, play(seed, theme))
        except Exception as error:
            # A mistake of the simulator, most likely; not a reason to lose a night's work.
            tally.add(Tally(1, bad={seed: f"raised {error!r}"}))
    tally.cpu_s = time.process_time() - began
    return tally


def _begin() -> None:
    """In a new process: Ctrl-C is for the parent; and the cycles of a run die with it anyway."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(50_000, 50, 50)


def _chunks(first: int, last: int | None) -> Iterator[range]:
    for start in count(first, CHUNK):
        if last is not None and start > last:
            return
        yield range(start, start + CHUNK if last is None else min(start + CHUNK, last + 1))


def play_on_all_cores(
    first: int, last: int | None, *, jobs: int, seconds: float | None, theme: str = ""
) -> Iterator[tuple[range, Tally]]:
    """Play the seeds from `first` to `last` (None: on and on) in `jobs` processes, beginning none
    after `seconds`. Yields what each part came to, in the order of the seeds. Closed, it waits for
    the parts that are being played."""
    until = None if seconds is None else time.monotonic() + seconds
    chunks = _chunks(first, last)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _begin) as pool:
        playing: deque[tuple[range, Future[Tally]]] = deque()
        try:
            while True:
                while len(playing) < 2 * jobs and (until is None or time.monotonic() < until):
                    chunk = next(chunks, None)
                    if chunk is None:
                        break
                    playing.append((chunk, pool.submit(play_all, chunk, theme)))
                if not playing:
                    return
                chunk, future = playing.popleft()
                yield chunk, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
