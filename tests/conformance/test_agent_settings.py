"""What a member's file says, observed from outside of real agents."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from pgregent.adapters.dcs.local import LocalDcs
from pgregent.adapters.postgres import tools
from pgregent.config.lockfile import hold_lock
from tests.conformance import pg
from tests.conformance.trio import _kill as kill

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

PROGRAM = (sys.executable, "-P", "-m", "pgregent.cli.main", "agent")
Section = dict[str, Any]


def _leave_with_tests() -> None:
    # Also when the tests are killed no server stays: PR_SET_PDEATHSIG, and the agent leaves.
    pg._libc.prctl(1, signal.SIGTERM)


@dataclass
class Agent:
    """One agent's process. `pids`: it, its guard and its server, as far as it has told."""

    file: Path
    log: Path
    port: int
    process: "subprocess.Popen[bytes]"
    pids: set[int] = field(default_factory=set[int])

    async def get(self, path: str) -> tuple[int, Any]:
        """The status and the document; (0, None) while nobody answers."""
        limit = aiohttp.ClientTimeout(total=2)
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.get(url) as answer,
            ):
                return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return 0, None

    async def post(self, path: str) -> tuple[int, str]:
        """The status and the text."""
        limit = aiohttp.ClientTimeout(total=60)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def status(self) -> Any:
        _, document = await self.get("/pgregent/status")
        if document is not None:
            self.pids |= {pid for pid in document["processes"].values() if pid is not None}
        return document

    def levels(self) -> set[str]:
        """Those of the lines that it has logged."""
        return set(re.findall(r"^[-0-9]+ [:.0-9]+ ([A-Z]+) ", self.log.read_text(), re.MULTILINE))

    async def stop(self) -> None:
        with contextlib.suppress(AssertionError):
            await self.status()
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 15)
        finally:
            self.process.kill()
            if self.process.wait(5) != 0:
                kill(list(self.pids))


@dataclass
class Agents:
    """Agents in one folder."""

    root: Path
    made: list[Agent] = field(default_factory=list[Agent])

    def start(
        self,
        name: str,
        rest: int,
        postgresql: Section,
        *,
        by_directory: bool = False,
        **sections: Any,
    ) -> Agent:
        """One whose file says this, on that REST port; it is given the file, or its directory."""
        place = self.root / name
        place.mkdir()
        place.chmod(0o711)
        content = {
            "scope": "demo",
            "name": name,
            "restapi": {"listen": f"127.0.0.1:{rest}"},
            "bootstrap": {"dcs": {"synchronous_mode": True}},
            **sections,
            "postgresql": {
                "listen": f"127.0.0.1:{pg.free_port()}",
                "data_dir": str(place / "data"),
                "parameters": {"shared_buffers": "16MB"},
                "authentication": {
                    "superuser": {"username": "postgres", "password": "one"},
                    "replication": {"username": "replicator", "password": "two"},
                },
                **postgresql,
            },
        }
        file, log = place / "agent.yml", place / "agent.log"
        file.write_text(yaml.safe_dump(content))
        with log.open("wb") as out:
            process = subprocess.Popen(
                (*PROGRAM, str(place if by_directory else file)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
                preexec_fn=_leave_with_tests,  # noqa: PLW1509 (one system call)
            )
        self.made.append(Agent(file, log, rest, process))
        return self.made[-1]


@pytest.fixture
async def agents() -> AsyncIterator[Agents]:
    with pg.folder(tools.service_owner()) as root:
        made = Agents(root)
        try:
            yield made
        finally:
            await asyncio.gather(*(agent.stop() for agent in made.made))


async def test_where_it_is_found_and_what_it_logs(agents: Agents) -> None:
    """In the DCS under the namespace; others are told the connect_addresses."""
    file, rest, port = agents.root / "dcs.sqlite", pg.free_port(), pg.free_port()
    agent = agents.start(
        "n1",
        rest,
        {"listen": f"127.0.0.1:{port}", "connect_address": f"localhost:{port}"},
        restapi={"listen": f"127.0.0.1:{rest}", "connect_address": f"localhost:{rest}"},
        local={"path": str(file)},
        namespace="/db/prod",
        log={"level": "debug"},
        tags={"nosync": True, "zone": "a"},
    )

    async def serves() -> bool:
        await agent.status()
        return (await agent.get("/primary"))[0] == 200

    await pg.eventually("it serves", serves, timeout=30)
    api_url = f"http://localhost:{rest}/patroni"
    dcs = await LocalDcs.open(file)
    try:
        values = await dcs.read("/")
    finally:
        await dcs.close()
    own = "/db/prod/demo/pgregent"
    assert set(values) == {"/db/prod/demo/config", f"{own}/register", f"{own}/members/n1"}
    record = json.loads(values[f"{own}/members/n1"].value)
    assert (record["host"], record["port"], record["api_url"]) == ("localhost", port, api_url)

    _, cluster = await agent.get("/cluster")
    (member,) = cluster["members"]
    assert (member["host"], member["port"], member["api_url"]) == ("localhost", port, api_url)
    assert member["tags"] == {"nosync": True, "zone": "a"}
    assert re.search(r" DEBUG Initdb took \d+ ms$", agent.log.read_text(), re.MULTILINE)


def closed_port() -> socket.socket:
    """Bound and not listening: whoever connects is refused, and nobody else gets it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


async def test_members_find_each_other_by_peers(agents: Agents) -> None:
    """While the DCS does not answer. One of them logs errors only."""
    with closed_port() as sock:
        zookeeper = {"hosts": [f"127.0.0.1:{sock.getsockname()[1]}"]}
        ports = {"n1": pg.free_port(), "n2": pg.free_port()}
        for name, other, level in (("n1", "n2", "error"), ("n2", "n1", "info")):
            agents.start(
                name,
                ports[name],
                {},
                zookeeper=zookeeper,
                log={"level": level},
                pgregent={"peers": {other: f"127.0.0.1:{ports[other]}"}},
            )

        async def both_known() -> bool:
            found = [await agent.status() for agent in agents.made]
            names = [{m["name"] for m in status["members"]} for status in found if status]
            return names == [{"n1", "n2"}, {"n1", "n2"}]

        await pg.eventually("each knows both", both_known)
        found = await agents.made[0].status()
        assert not found["dcs"]["ok"]
        assert [m["api_url"] for m in found["members"]] == [
            f"http://127.0.0.1:{ports[name]}/patroni" for name in ("n1", "n2")
        ]
        quiet, usual = agents.made
        assert "INFO" in usual.levels()
        assert quiet.levels() <= {"ERROR", "CRITICAL"}


async def test_a_directory_of_files_that_is_read_again(agents: Agents) -> None:
    """A file is added to it, and the log goes elsewhere; one with a mistake changes nothing."""
    with closed_port() as sock:
        agent = agents.start(
            "n1",
            pg.free_port(),
            {},
            by_directory=True,
            zookeeper={"hosts": [f"127.0.0.1:{sock.getsockname()[1]}"]},
        )

        async def answers() -> bool:
            return await agent.status() is not None

        await pg.eventually("it answers", answers)
        place = agent.file.parent
        log = {"type": "json", "dir": str(place), "static_fields": {"app": "db"}}
        (place / "more.yml").write_text(yaml.safe_dump({"log": log, "tags": {"rack": 3}}))
        agent.process.send_signal(signal.SIGHUP)
        file = place / "pgregent.log"

        def lines() -> list[Any]:
            return [json.loads(line) for line in file.read_text().splitlines()]

        async def logged(text: str) -> bool:
            return file.exists() and any(text in line["message"] for line in lines())

        await pg.eventually("it was read", lambda: logged("the configuration was read again"))
        assert {line["app"] for line in lines()} == {"db"}
        (place / "more.yml").write_text("log: {level: loud}")
        agent.process.send_signal(signal.SIGHUP)
        await pg.eventually(
            "it is refused", lambda: logged(f"{place}/more.yml:1: log.level: found")
        )


async def test_a_config_dir_that_another_member_uses_is_refused(agents: Agents) -> None:
    """Its files would say who confirms this one's commits."""
    folder = agents.root / "conf"
    folder.mkdir()
    lock = hold_lock(folder / "pgregent.lock")
    try:
        local = {"path": str(agents.root / "dcs.sqlite")}
        agent = agents.start("n1", pg.free_port(), {"config_dir": str(folder)}, local=local)
        assert await asyncio.to_thread(agent.process.wait, 30) == 2
    finally:
        lock.release()
    assert f"process {os.getpid()} holds {folder}/pgregent.lock" in agent.log.read_text()
    assert not (agent.file.parent / "data").exists()
