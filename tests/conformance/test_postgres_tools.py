"""initdb, pg_basebackup, pg_rewind and finding them, with real programs and servers."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgregent.adapters.postgres import render, sql, tools, wal
from pgregent.core.errors import Refused, Unavailable
from tests.conformance import pg as fixture
from tests.conformance.pg import Pg, Servers, eventually, installations, servers_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root switches users")


@pytest.fixture(scope="module", params=installations(), ids=lambda p: f"pg{p.parent.name}")
def each_installed(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with servers_of(request.param) as servers:
        yield servers


@pytest.fixture
def each(each_installed: Servers) -> Iterator[Servers]:
    yield each_installed
    each_installed.close()


@pytest.fixture
def servers() -> Iterator[Servers]:
    with servers_of(tools.find_bin_dir()) as servers:
        yield servers


def fake_install(folder: Path, version: str, *missing: str) -> Path:
    folder.mkdir()
    for name in set(tools.REQUIRED) - set(missing):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


def test_find_bin_dir_refuses_what_is_incomplete_or_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"lacks pg_rewind"):
        tools.find_bin_dir(fake_install(tmp_path / "a", "15.1", "pg_rewind"))
    with pytest.raises(Refused, match=r"holds PostgreSQL 13\.4; expected 14 to 18"):
        tools.find_bin_dir(fake_install(tmp_path / "b", "13.4"))
    good = fake_install(tmp_path / "c", "18beta1")
    assert tools.find_bin_dir(good) == good
    assert tools.postgres_version(good) == tools.Version(18, 0)


def test_find_bin_dir_by_itself() -> None:
    assert tools.postgres_version(tools.find_bin_dir()).major >= tools.MAJOR_MIN
    if wheel := fixture.wheel_bin_dir():
        assert tools.find_bin_dir(wheel_first=True) == wheel


@as_root
def test_service_owner() -> None:
    owner = tools.service_owner("nobody")
    assert owner is not None and owner.uid != 0
    for name in ("root", "no-such-user"):
        with pytest.raises(Refused, match="does not run as root"):
            tools.service_owner(name)


@as_root
def test_binaries_out_of_reach_are_copied_once(tmp_path: Path) -> None:
    bin_dir, owner = fixture.wheel_bin_dir(), tools.service_owner()
    if bin_dir is None or owner is None:
        pytest.skip("needs the wheel")
    tmp_path.chmod(0o700)
    package = bin_dir.parent.parent
    hidden = tmp_path / package.name / bin_dir.parent.name
    for name in ("bin", "lib", "share"):
        shutil.copytree(bin_dir.parent / name, hidden / name, copy_function=link_or_copy)
    shutil.copytree(package.with_name(f"{package.name}.libs"), tmp_path / f"{package.name}.libs")
    with fixture.folder(owner) as reached:
        first = tools.reachable_bin_dir(hidden / "bin", owner, reached)
        assert first.is_relative_to(reached)
        assert tools.postgres_version(first, owner) == tools.postgres_version(bin_dir)
        assert (first.parent / "share" / "postgresql" / "postgres.bki").stat().st_mode & 0o004
        inode = first.stat().st_ino
        assert tools.reachable_bin_dir(hidden / "bin", owner, reached) == first
        assert first.stat().st_ino == inode
        assert tools.reachable_bin_dir(first, owner, Path("/nowhere")) == first


@as_root
def test_a_copy_that_is_out_of_reach_as_well_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    hidden = fake_install(tmp_path / "bin", "15.1")
    with pytest.raises(Refused, match=r"chmod o\+x"):
        tools.reachable_bin_dir(hidden, tools.service_owner(), tmp_path / "copies")


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_initdb(each: Servers) -> None:
    control = wal.controldata(each.bin_dir, each.template)
    assert control.state == "shut down" and control.shut_down
    assert (control.timeline, control.wal_segment_size) == (1, wal.SEGMENT_SIZE)
    assert control.checksum_version == 1
    hba = (each.template / "pg_hba.conf").read_text()
    assert "scram-sha-256" in hba and "trust" not in hba.replace("# ", "").split("TYPE")[-1]


async def test_initdb_refuses_a_folder_that_is_not_empty(servers: Servers) -> None:
    with pytest.raises(Refused, match="not empty"):
        await tools.initdb(
            servers.bin_dir,
            servers.template,
            superuser="x",
            pwfile=servers.template.with_name("pwfile"),
            owner=servers.owner,
        )


def test_controldata_of_what_is_no_data_directory(each: Servers) -> None:
    with pytest.raises(Refused, match="is it a data directory"):
        wal.controldata(each.bin_dir, each.root)
    broken = each.root / "broken"
    (broken / "global").mkdir(parents=True)
    content = bytearray((each.template / "global" / "pg_control").read_bytes())
    content[40] ^= 1
    (broken / "global" / "pg_control").write_bytes(content)
    with pytest.raises(Refused, match="CRC"):
        wal.controldata(each.bin_dir, broken)


async def test_basebackup_and_its_failures(each: Servers) -> None:
    primary = await each.primary("a", cluster_name="it's\\a")
    assert await primary.execute("SHOW cluster_name") == [("it's\\a",)]
    lines: list[str] = []
    clone, source = each.root / "clone", primary.upstream(primary)
    owner, bin_dir = each.owner, each.bin_dir
    await tools.basebackup(bin_dir, clone, source, owner=owner, on_line=lines.append)
    assert any("100%" in line for line in lines)
    assert wal.controldata(bin_dir, clone).system_identifier == (
        (await primary.status()).system_identifier
    )
    with pytest.raises(Unavailable, match="not empty"):
        await tools.basebackup(bin_dir, clone, source, owner=owner)
    shutil.rmtree(clone)
    wrong = each.root / "wrong.pgpass"
    render.write_file(wrong, "*:*:*:*:wrong\n", owner)
    stranger = render.Upstream("127.0.0.1", primary.port, fixture.SUPERUSER, wrong, "x")
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        await tools.basebackup(bin_dir, clone, stranger, owner=owner)
    assert fixture.PASSWORD not in str(caught.value)
    if owner is not None:
        with pytest.raises(Refused, match="check the owner"):
            await tools.basebackup(bin_dir, Path("/root/clone"), source, owner=owner)


async def test_basebackup_of_a_frozen_server_is_bounded(servers: Servers) -> None:
    primary = await servers.primary("a")
    primary.signal_all(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="was killed after 1 s"):
        await tools.basebackup(
            servers.bin_dir,
            servers.root / "clone",
            primary.upstream(primary),
            owner=servers.owner,
            idle_timeout=1.0,
        )
    assert time.monotonic() - began < 3


CLONE = """
import asyncio, sys
from pathlib import Path
from pgregent.adapters.postgres import render, tools
bin_dir, target, port, user, passfile, uid, gid = sys.argv[1:]
owner = None if uid == "-" else render.Owner(int(uid), int(gid))
source = render.Upstream("127.0.0.1", int(port), user, Path(passfile), "x")
asyncio.run(tools.basebackup(Path(bin_dir), Path(target), source, owner=owner))
"""


async def test_a_clone_ends_with_the_agent_that_made_it(servers: Servers) -> None:
    primary = await servers.primary("a")
    source, owner = primary.upstream(primary), servers.owner
    primary.signal_all(signal.SIGSTOP)
    user = ("-", "-") if owner is None else (str(owner.uid), str(owner.gid))
    where = (servers.bin_dir, servers.root / "clone", str(source.port), source.user)
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLONE, *where, source.passfile, *user
    )
    try:

        async def tool() -> int:
            return next(iter(fixture.descendants(agent.pid)), 0)

        pid = await eventually("pg_basebackup runs", tool)
    finally:
        agent.kill()
        await agent.wait()

    async def gone() -> bool:
        try:
            return ") Z " in Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True

    # Left alone it would give up after its connect_timeout of 3 s.
    await eventually("pg_basebackup is gone", gone, timeout=1.5)


async def diverged(servers: Servers) -> tuple[Pg, Pg]:
    """The old primary (running, with a row of its own) and its successor (another row).

    The successor's checkpointer is frozen, so it has made no checkpoint on its timeline yet.
    """
    old = await servers.primary("a")
    await old.execute("CREATE TABLE t (who text)")
    new = await servers.standby("b", old)
    new.set_role(render.Role())
    os.kill(await checkpointer(new), signal.SIGSTOP)
    async with new.session() as conn:
        await sql.reload(conn)
        await eventually("sealed", lambda: sql.walreceiver_gone(conn))
        assert await sql.promote(conn, timeout=10) == sql.Promoted(2)
    await old.execute("INSERT INTO t VALUES ('old')")
    await new.execute("INSERT INTO t VALUES ('new')")
    return old, new


async def checkpointer(pg: Pg) -> int:
    rows = await pg.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    pid = rows[0][0]
    assert isinstance(pid, int)
    return pid


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
async def test_rewind_of_a_diverged_primary(each: Servers, ending: int) -> None:
    old, new = await diverged(each)
    old.stop(ending)

    async def rewind() -> tools.RewindOutcome:
        return await tools.rewind(each.bin_dir, old.data_dir, old.upstream(new), owner=each.owner)

    if tools.postgres_version(each.bin_dir).major < 16:
        # It looks at the source's control file, which a checkpoint has yet to update.
        assert await rewind() == tools.NotRequired()
    os.kill(await checkpointer(new), signal.SIGCONT)
    async with new.session() as conn:
        await sql.checkpoint(conn, timeout=10)
    assert await rewind() == tools.Rewound()
    await each.start_standby(old, new)
    assert await old.execute("SELECT who FROM t") == [("new",)]
    old.stop()
    assert await rewind() == tools.NotRequired()


async def test_rewind_fails_in_words(servers: Servers) -> None:
    old, new = await diverged(servers)
    target = old.upstream(new)
    running = await tools.rewind(servers.bin_dir, old.data_dir, target, owner=servers.owner)
    assert isinstance(running, tools.Failed) and "failed" in running.reason
    old.stop(signal.SIGKILL)
    render.set_standby_signal(old.data_dir, True, servers.owner)
    crashed = await tools.rewind(servers.bin_dir, old.data_dir, target, owner=servers.owner)
    assert isinstance(crashed, tools.Failed) and "not shut down cleanly" in crashed.reason
    nothing = await tools.rewind(servers.bin_dir, servers.root, target, owner=servers.owner)
    assert isinstance(nothing, tools.Failed)
