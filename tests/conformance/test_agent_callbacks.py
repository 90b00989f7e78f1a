"""The scripts under postgresql.callbacks, run by real agents with real servers."""

import asyncio
import signal
import stat
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pgregent.adapters.postgres import tools
from tests.conformance import pg
from tests.conformance.test_agent_settings import Agent, Agents

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

ACTIONS = ("on_start", "on_stop", "on_role_change", "on_reload", "on_restart")


@pytest.fixture
async def agents(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agents]:
    monkeypatch.setenv("PATRONI_SUPERUSER_PASSWORD", "one")
    monkeypatch.setenv("PATRONI_LOG_LEVEL", "debug")
    with pg.folder(tools.service_owner()) as root:
        made = Agents(root)
        try:
            yield made
        finally:
            await asyncio.gather(*(agent.stop() for agent in made.made))


def start(agents: Agents, name: str) -> Agent:
    """One whose scripts write what they are told to a file beside its own."""
    script = agents.root / f"{name}.sh"
    told, environ = agents.root / f"{name}.told", agents.root / f"{name}.environ"
    script.write_text(f'#!/bin/sh\nenv > {environ}\necho "$@" >> {told}\n')
    script.chmod(stat.S_IRWXU)
    return agents.start(
        name,
        pg.free_port(),
        {"callbacks": dict.fromkeys(ACTIONS, str(script))},
        local={"path": str(agents.root / "dcs.sqlite")},
    )


async def said(agents: Agents, name: str, *expected: str) -> None:
    told = agents.root / f"{name}.told"

    async def so() -> bool:
        return told.exists() and told.read_text().splitlines() == list(expected)

    try:
        await pg.eventually(f"{name}: {expected}", so, timeout=40)
    except AssertionError:
        raise AssertionError(told.read_text() if told.exists() else "no call") from None


async def test_a_restart_is_neither_stop_nor_start(agents: Agents) -> None:
    first = start(agents, "n1")
    await said(agents, "n1", "on_start primary demo")
    assert await first.post("/restart") == (200, "restarted successfully")
    await said(agents, "n1", "on_start primary demo", "on_restart primary demo")
    first.process.send_signal(signal.SIGINT)
    before = ("on_start primary demo", "on_restart primary demo")
    await said(agents, "n1", *before, "on_stop primary demo")


async def answers(agent: Agent, path: str) -> Any:
    async def so() -> bool:
        await agent.status()
        return (await agent.get(path))[0] == 200

    await pg.eventually(path, so, timeout=40)


async def test_start_reload_promotion_and_stop(agents: Agents) -> None:
    first = start(agents, "n1")
    await said(agents, "n1", "on_start primary demo")
    second = start(agents, "n2")
    await said(agents, "n2", "on_start replica demo")
    second.process.send_signal(signal.SIGHUP)
    await said(agents, "n2", "on_start replica demo", "on_reload replica demo")
    await answers(second, "/sync")
    first.process.send_signal(signal.SIGTERM)
    await said(agents, "n1", "on_start primary demo", "on_stop primary demo")
    before = ("on_start replica demo", "on_reload replica demo", "on_role_change primary demo")
    await said(agents, "n2", *before)
    assert await asyncio.to_thread(first.process.wait, 15) == 0
    second.process.send_signal(signal.SIGINT)
    await said(agents, "n2", *before, "on_stop primary demo")
    environ = (agents.root / "n2.environ").read_text()
    assert "PATRONI_LOG_LEVEL=debug" in environ
    assert "PASSWORD" not in environ
