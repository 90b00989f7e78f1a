"""The configuration as commands change it: who may, what is refused, and who was faster."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pgregent.adapters.dcs.memory import MemoryDcs
from pgregent.agent.dynamic import DynamicConfig
from pgregent.api.signed import EDIT_CONFIG, HEADER, RELOAD, SHOW_CONFIG, sign
from pgregent.api.signed_config import SignedConfig
from pgregent.config.load import parse_dynamic
from pgregent.core.errors import Refused, Unavailable
from tests.api.members import LOOPBACK, node, primary, served

KEY = b"the cluster's key"
DCS_KEY = "/service/demo/config"
BEGUN = {"synchronous_mode": True, "postgresql": {"parameters": {"work_mem": "8MB"}}}
CHANGED = {"synchronous_mode": "quorum", "ttl": 20}


@dataclass
class Agent:
    dcs: MemoryDcs
    port: int = 0
    reloads: list[Exception | Sequence[str]] = field(
        default_factory=list[Exception | Sequence[str]]
    )
    """How the next ones end."""

    async def reload(self) -> Sequence[str]:
        end = self.reloads.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    async def ask(self, path: str, asked: Any, key: bytes = KEY) -> tuple[int, Any]:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        limit = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(
                f"http://{LOOPBACK}:{self.port}{path}",
                data=body,
                headers={HEADER: sign(key, path, body)},
            ) as answer,
        ):
            return answer.status, await answer.json()

    async def stored(self) -> Any:
        return json.loads((await self.dcs.read(DCS_KEY))[DCS_KEY].value)


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(MemoryDcs())
    stored = DynamicConfig(made.dcs, DCS_KEY, tmp_path, parse_dynamic(json.dumps(BEGUN), "f").dcs)
    await stored.load(lambda _: None)
    async with contextlib.AsyncExitStack() as stack:
        routes = SignedConfig(KEY, stored, made.reload).routes()
        made.port = await stack.enter_async_context(served(node(primary()), routes))
        yield made


async def test_a_change_of_the_version_that_was_shown_is_stored(there: Agent) -> None:
    code, shown = await there.ask(SHOW_CONFIG, {})
    assert (code, shown["config"]) == (200, BEGUN)
    asked = {"config": CHANGED, "version": shown["version"]}
    assert await there.ask(EDIT_CONFIG, asked) == (200, {"stored": True})
    assert await there.stored() == CHANGED


async def test_a_change_of_an_older_version_is_refused_also_when_it_is_sent_again(
    there: Agent,
) -> None:
    _, shown = await there.ask(SHOW_CONFIG, {})
    first = {"config": CHANGED, "version": shown["version"]}
    await there.ask(EDIT_CONFIG, first)
    _, now = await there.ask(SHOW_CONFIG, {})
    await there.ask(EDIT_CONFIG, {"config": BEGUN, "version": now["version"]})
    code, answer = await there.ask(EDIT_CONFIG, first)
    assert (code, "somebody else has changed it" in answer["error"]) == (409, True)
    assert await there.stored() == BEGUN


async def test_what_no_agent_would_run_with_is_refused(there: Agent) -> None:
    _, shown = await there.ask(SHOW_CONFIG, {})
    asked = {"config": {**CHANGED, "ttl": "long"}, "version": shown["version"]}
    code, answer = await there.ask(EDIT_CONFIG, asked)
    assert (code, 'ttl: found "long", expected' in answer["error"]) == (422, True)
    assert await there.stored() == BEGUN


async def test_a_store_that_does_not_answer(there: Agent) -> None:
    there.dcs.set_unavailable()
    for path, asked in ((SHOW_CONFIG, {}), (EDIT_CONFIG, {"config": CHANGED, "version": 1})):
        code, answer = await there.ask(path, asked)
        assert (code, answer["error"].startswith("dcs: ")) == (503, True)


@pytest.mark.parametrize("path", [SHOW_CONFIG, EDIT_CONFIG, RELOAD])
async def test_nobody_without_the_key_gets_anything(there: Agent, path: str) -> None:
    there.reloads = [["it was reloaded"]]
    asked = {"config": CHANGED, "version": 1}
    assert (await there.ask(path, asked, b"another"))[0] == 401
    assert (await there.stored(), there.reloads) == (BEGUN, [["it was reloaded"]])


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        {"config": CHANGED},
        {"config": [], "version": 1},
        {"config": CHANGED, "version": "1"},
        {"config": CHANGED, "version": True},
    ],
)
async def test_a_body_that_is_not_understood(there: Agent, asked: Any) -> None:
    code, answer = await there.ask(EDIT_CONFIG, asked)
    assert (code, "config (an object), version (a whole number)" in answer["error"]) == (400, True)
    assert await there.stored() == BEGUN


@pytest.mark.parametrize(
    ("end", "code", "answer"),
    [
        (["name was changed"], 200, {"remarks": ["name was changed"]}),
        (Refused("a.yml:1: x: y\na.yml:2: z"), 422, {"error": "a.yml:1: x: y; a.yml:2: z"}),
        (Unavailable("postgres", "gone"), 503, {"error": "postgres: gone"}),
    ],
)
async def test_a_reload_says_what_became_of_it(
    there: Agent, end: Any, code: int, answer: Any
) -> None:
    there.reloads = [end]
    assert await there.ask(RELOAD, {}) == (code, answer)
