"""The dynamic configuration on a real DCS: who stores it, what counts, and what is kept."""

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pgregent.adapters.dcs.local import LocalDcs
from pgregent.adapters.dcs.memory import MemoryDcs
from pgregent.agent.dynamic import COPY, DynamicConfig
from pgregent.config.dynamic import Dcs as Dynamic
from pgregent.config.load import parse_dynamic
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import Dcs, Versioned

KEY = "/service/demo/config"
OURS = '{"synchronous_mode": true, "maximum_lag_on_failover": 111}'
THEIRS = '{"synchronous_mode": true, "maximum_lag_on_failover": 222}'
UNUSABLE = 333
WRONG = '{"synchronous_mode": true, "maximum_lag_on_failover": "far"}'


@pytest.fixture
async def dcs(tmp_path: Path) -> AsyncIterator[LocalDcs]:
    opened = await LocalDcs.open(tmp_path / "dcs.sqlite")
    yield opened
    await opened.close()


@pytest.fixture
def away() -> MemoryDcs:
    """A DCS that does not answer."""
    made = MemoryDcs()
    made.set_unavailable()
    return made


def member(dcs: Dcs, place: Path, name: str, own: str = OURS) -> DynamicConfig:
    """A member whose file says `own` under bootstrap.dcs."""
    state_dir = place / name
    state_dir.mkdir(exist_ok=True)
    return DynamicConfig(dcs, KEY, state_dir, parse_dynamic(own, "the file").dcs)


async def in_force(config: DynamicConfig) -> Dynamic:
    return await config.load(lambda warning: None)


async def entry(dcs: Dcs) -> Versioned | None:
    return (await dcs.read(KEY)).get(KEY)


async def stored(dcs: Dcs) -> object:
    found = await entry(dcs)
    return None if found is None else json.loads(found.value)


async def put(dcs: Dcs, text: str) -> None:
    await dcs.put(KEY, text.encode())


async def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline, f"not within 5 s: {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def watched(config: DynamicConfig) -> AsyncIterator[list[Dynamic]]:
    """What it is told to use, as it comes."""
    told: list[Dynamic] = []

    async def use(dynamic: Dynamic) -> None:
        if dynamic.maximum_lag_on_failover == UNUSABLE:
            raise Refused("it cannot be used")
        told.append(dynamic)

    task = asyncio.create_task(config.watch(use))
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()


# --- who stores it, and what counts --------------------------------------------------------------


async def test_the_first_member_stores_what_its_file_says(dcs: LocalDcs, tmp_path: Path) -> None:
    found = await in_force(member(dcs, tmp_path, "n1"))
    assert found.maximum_lag_on_failover == 111
    assert await stored(dcs) == json.loads(OURS)


async def test_the_second_uses_what_is_stored(dcs: LocalDcs, tmp_path: Path) -> None:
    await in_force(member(dcs, tmp_path, "n1"))
    before = await entry(dcs)
    second = member(dcs, tmp_path, "n2", THEIRS)
    assert (await in_force(second)).maximum_lag_on_failover == 111
    assert second.in_force.maximum_lag_on_failover == 111
    assert await entry(dcs) == before


async def test_of_several_at_once_one_stores_it(dcs: LocalDcs, tmp_path: Path) -> None:
    owns = {"n1": OURS, "n2": THEIRS, "n3": THEIRS}
    loads = [in_force(member(dcs, tmp_path, name, own)) for name, own in owns.items()]
    found = {loaded.maximum_lag_on_failover for loaded in await asyncio.gather(*loads)}
    assert len(found) == 1


async def test_warnings_are_those_of_what_is_stored(dcs: LocalDcs, tmp_path: Path) -> None:
    await put(dcs, '{"synchronous_mode": true, "postgresql": {"pg_hba": ["host a a ::/0 md5"]}}')
    warnings: list[str] = []
    await member(dcs, tmp_path, "n1").load(warnings.append)
    assert [KEY in warning and "md5" in warning for warning in warnings] == [True]


@pytest.mark.parametrize("own", ["{}", '{"synchronous_mode": false}'])
async def test_what_no_cluster_can_run_with_is_not_stored(
    dcs: LocalDcs, tmp_path: Path, own: str
) -> None:
    """Else the file could be corrected afterwards and nothing would change."""
    with pytest.raises(Refused, match=r"bootstrap\.dcs: synchronous_"):
        await in_force(member(dcs, tmp_path, "n1", own))
    assert await stored(dcs) is None
    assert not (tmp_path / "n1" / COPY).exists()
    await in_force(member(dcs, tmp_path, "n1"))
    assert (await in_force(member(dcs, tmp_path, "n2", own))).maximum_lag_on_failover == 111


# --- the copy ------------------------------------------------------------------------------------


async def test_the_copy_counts_while_the_dcs_is_away(
    dcs: LocalDcs, away: MemoryDcs, tmp_path: Path
) -> None:
    await put(dcs, THEIRS)
    await in_force(member(dcs, tmp_path, "n1"))
    copy = tmp_path / "n1" / COPY
    assert copy.stat().st_mode & 0o777 == 0o600
    assert (await in_force(member(away, tmp_path, "n1"))).maximum_lag_on_failover == 222


async def test_the_file_counts_where_there_is_no_copy(away: MemoryDcs, tmp_path: Path) -> None:
    assert (await in_force(member(away, tmp_path, "n1"))).maximum_lag_on_failover == 111


async def test_an_emptied_dcs_gets_the_copy_at_the_next_start(
    dcs: LocalDcs, tmp_path: Path
) -> None:
    copy = tmp_path / "n1" / COPY
    copy.parent.mkdir()
    copy.write_text(THEIRS)
    assert (await in_force(member(dcs, tmp_path, "n1"))).maximum_lag_on_failover == 222
    assert await stored(dcs) == json.loads(THEIRS)


@pytest.mark.parametrize("broken", [b"", b"{", b"\xff\xfe", b"[]"])
async def test_a_broken_copy_is_not_stored(dcs: LocalDcs, tmp_path: Path, broken: bytes) -> None:
    copy = tmp_path / "n1" / COPY
    copy.parent.mkdir()
    copy.write_bytes(broken)
    with pytest.raises(Refused, match=COPY):
        await in_force(member(dcs, tmp_path, "n1"))
    assert await stored(dcs) is None
    await put(dcs, THEIRS)
    assert (await in_force(member(dcs, tmp_path, "n1"))).maximum_lag_on_failover == 222


# --- what is wrong in the DCS --------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [WRONG, "{", '{"synchronous_mode": false}'])
async def test_at_the_start_the_copy_counts_instead(
    dcs: LocalDcs, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    await in_force(member(dcs, tmp_path, "n1"))
    await put(dcs, wrong)
    assert (await in_force(member(dcs, tmp_path, "n1"))).maximum_lag_on_failover == 111
    assert json.loads((tmp_path / "n1" / COPY).read_text()) == json.loads(OURS)
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert KEY in errors[0]
    with pytest.raises(Refused, match=KEY):
        await in_force(member(dcs, tmp_path, "n2"))


# --- the watch -----------------------------------------------------------------------------------


async def empty(dcs: LocalDcs, path: Path) -> None:
    """A new file takes the place of the one that all had."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{path}.aside{suffix}")
    # A connection to the old file that ends takes the log along that has the name of its own.
    with pytest.raises(Unavailable):
        await dcs.put(KEY, b"")
    with pytest.raises(Unavailable):
        await dcs.read(KEY)
    await until("nobody has the old one", lambda: not _is_open(f"{path}.aside"))
    await (await LocalDcs.open(path)).close()


def _is_open(path: str) -> bool:
    links = Path("/proc/self/fd").iterdir()
    return any(link.is_symlink() and path in str(_target(link)) for link in links)


def _target(link: Path) -> Path | None:
    with suppress(FileNotFoundError):
        return link.readlink()
    return None


async def put_elsewhere(place: Path, text: str) -> None:
    """By another process, as far as the member's own client can tell."""
    other = await LocalDcs.open(place / "dcs.sqlite")
    try:
        await put(other, text)
    finally:
        await other.close()


async def stored_again(dcs: Dcs, text: str) -> None:
    async with asyncio.timeout(5):
        while True:
            with suppress(Unavailable):
                if await stored(dcs) == json.loads(text):
                    return
            await asyncio.sleep(0.01)


async def test_an_emptied_dcs_gets_it_back(dcs: LocalDcs, tmp_path: Path) -> None:
    await put(dcs, THEIRS)
    config = member(dcs, tmp_path, "n1")
    await in_force(config)
    async with watched(config):
        await empty(dcs, tmp_path / "dcs.sqlite")
        await stored_again(dcs, THEIRS)


async def test_a_change_is_used_and_kept(dcs: LocalDcs, away: MemoryDcs, tmp_path: Path) -> None:
    config = member(dcs, tmp_path, "n1")
    await in_force(config)
    async with watched(config) as told:
        await put_elsewhere(tmp_path, THEIRS)
        await until("it is used", lambda: config.in_force.maximum_lag_on_failover == 222)
        assert [dynamic.maximum_lag_on_failover for dynamic in told] == [222]
        await empty(dcs, tmp_path / "dcs.sqlite")
        await stored_again(dcs, THEIRS)
    assert (await in_force(member(away, tmp_path, "n1"))).maximum_lag_on_failover == 222


@pytest.mark.parametrize("wrong", [WRONG, "{", "", '{"synchronous_mode": false}'])
async def test_a_wrong_change_is_an_error_and_not_kept(
    dcs: LocalDcs, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    config = member(dcs, tmp_path, "n1")
    await in_force(config)
    async with watched(config) as told:
        await put(dcs, wrong)
        await until("it is said", lambda: f"wrong: the DCS key {KEY}" in caplog.text)
        assert told == []
        await put(dcs, THEIRS)
        await until("it goes on", lambda: config.in_force.maximum_lag_on_failover == 222)
    assert json.loads((tmp_path / "n1" / COPY).read_text()) == json.loads(THEIRS)


async def test_the_watch_outlives_an_outage(
    away: MemoryDcs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pgregent")
    config = member(away, tmp_path, "n1")
    await in_force(config)
    async with watched(config):
        await until("it has tried", lambda: "cannot read the dynamic" in caplog.text)
        away.set_unavailable(False)
        await stored_again(away, OURS)


async def test_a_change_that_cannot_be_used_is_not_kept(
    dcs: LocalDcs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = member(dcs, tmp_path, "n1")
    await in_force(config)
    async with watched(config):
        await put(dcs, f'{{"synchronous_mode": true, "maximum_lag_on_failover": {UNUSABLE}}}')
        await until("it is said", lambda: "it cannot be used" in caplog.text)
    assert config.in_force.maximum_lag_on_failover == 111
    assert json.loads((tmp_path / "n1" / COPY).read_text()) == json.loads(OURS)


async def test_what_the_member_cannot_run_with_is_not_stored(dcs: LocalDcs, tmp_path: Path) -> None:
    async def refuse(dynamic: Dynamic) -> None:
        raise Refused("PostgreSQL would not start")

    bootstrap = parse_dynamic(OURS, "the file").dcs
    config = DynamicConfig(dcs, KEY, tmp_path, bootstrap, refuse)
    await in_force(config)
    for change in (config.patch({"ttl": 40}), config.replace(json.loads(THEIRS))):
        with pytest.raises(Refused, match="would not start"):
            await change
    assert await stored(dcs) == json.loads(OURS)
