"""GET, PATCH and PUT /config on a real store."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pgregent.adapters.dcs.local import LocalDcs
from pgregent.adapters.dcs.memory import MemoryDcs
from pgregent.agent.dynamic import DynamicConfig
from pgregent.api import configuration
from pgregent.config.load import parse_dynamic
from pgregent.ports.dcs import CasConflict, CasResult, CasUnknown, Dcs
from tests.api.members import LOOPBACK, node, primary, served

KEY = "/service/demo/config"
BEGUN = {
    "synchronous_mode": True,
    "ttl": 30,
    "postgresql": {"use_slots": True, "parameters": {"work_mem": "8MB", "max_connections": 100}},
}


@dataclass
class Agent:
    port: int
    dcs: Dcs

    async def ask(self, verb: str, body: Any = None, path: str = "/config") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        limit = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(
                verb, f"http://{LOOPBACK}:{self.port}{path}", data=data if body else None
            ) as answer,
        ):
            return answer.status, await answer.json()

    async def stored(self) -> Any:
        entry = (await self.dcs.read(KEY)).get(KEY)
        return None if entry is None else json.loads(entry.value)


@contextlib.asynccontextmanager
async def agent(dcs: Dcs, place: Path) -> AsyncIterator[Agent]:
    config = DynamicConfig(dcs, KEY, place, parse_dynamic(json.dumps(BEGUN), "the file").dcs)
    await config.load(lambda _: None)
    async with served(node(primary()), configuration.routes(config)) as port:
        yield Agent(port, dcs)


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Agent]:
    dcs = await LocalDcs.open(tmp_path / "dcs.sqlite")
    try:
        async with agent(dcs, tmp_path) as made:
            yield made
    finally:
        await dcs.close()


async def test_it_is_shown(there: Agent) -> None:
    assert await there.ask("GET") == (200, BEGUN)
    assert await there.ask("GET", path="/config/") == (200, BEGUN)


async def test_patch_is_laid_over_it(there: Agent) -> None:
    """Mappings are merged, null removes, at every depth, also where there was nothing."""
    changes = {
        "ttl": None,
        "loop_wait": 5,
        "retry_timeout": None,
        "postgresql": {
            "use_slots": None,
            "pg_hba": ["local all all trust"],
            "parameters": {"max_connections": 200, "port": None, "maintenance_work_mem": "1GB"},
        },
    }
    expected = {
        "synchronous_mode": True,
        "loop_wait": 5,
        "postgresql": {
            "parameters": {
                "work_mem": "8MB",
                "max_connections": 200,
                "maintenance_work_mem": "1GB",
            },
            "pg_hba": ["local all all trust"],
        },
    }
    assert await there.ask("PATCH", changes) == (200, expected)
    assert await there.stored() == expected
    assert await there.ask("GET") == (200, expected)
    new_section = {"synchronous_mode": "quorum", "postgresql": None}
    assert (await there.ask("PATCH", new_section))[0] == 200
    added = {"postgresql": {"parameters": {"work_mem": None, "wal_level": "logical"}}}
    status, document = await there.ask("PATCH", added)
    assert status == 200
    assert document["postgresql"] == {"parameters": {"wal_level": "logical"}}


async def test_put_takes_its_place(there: Agent) -> None:
    document = {"synchronous_mode": "quorum", "maximum_lag_on_failover": 5}
    assert await there.ask("PUT", document) == (200, document)
    assert await there.stored() == document


async def test_what_changes_nothing_is_not_written(there: Agent) -> None:
    before = (await there.dcs.read(KEY))[KEY].version
    assert (await there.ask("PATCH", {"ttl": 30}))[0] == 200
    assert (await there.dcs.read(KEY))[KEY].version == before


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"synchronous_mode": False}, "synchronous_mode: found off"),
        ({"ttl": "long"}, 'ttl: found "long", expected a number of seconds'),
        ({"tttl": 30}, "tttl: unknown key"),
        ({"standby_cluster": {}}, "standby_cluster: not supported yet"),
        ({"postgresql": {"parameters": ["work_mem"]}}, "postgresql.parameters: found a list"),
        ({"ttl": 0, "loop_wait": 0}, "; "),
    ],
)
async def test_what_no_agent_would_run_with_is_refused(
    there: Agent, verb: str, change: dict[str, Any], words: str
) -> None:
    status, answer = await there.ask(verb, {"synchronous_mode": True} | change)
    assert status == 422
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert await there.stored() == BEGUN
    assert await there.ask("GET") == (200, BEGUN)


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b"5", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_object(there: Agent, verb: str, body: bytes) -> None:
    status, answer = await there.ask(verb, body)
    assert status == 400
    assert "expected a JSON object that is not empty" in answer["error"]


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
async def test_a_body_without_its_length(there: Agent, verb: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"ttl": 40}'

    async with (
        aiohttp.ClientSession() as session,
        session.request(verb, f"http://{LOOPBACK}:{there.port}/config", data=chunks()) as answer,
    ):
        assert answer.status == 411
    assert await there.stored() == BEGUN


async def test_a_store_that_holds_nothing_right(there: Agent) -> None:
    await there.dcs.put(KEY, b"[]")
    status, answer = await there.ask("PATCH", {"ttl": 40})
    assert (status, "replace it with PUT" in answer["error"]) == (503, True)
    assert (await there.ask("PUT", BEGUN))[0] == 200
    assert await there.stored() == BEGUN


class Raced(MemoryDcs):
    """A store whose compare-and-swap ends like this."""

    result: CasResult | None = None

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        return self.result or await super().cas(key, expected_version, value)


@pytest.mark.parametrize(
    ("result", "status", "words"),
    [
        (CasConflict(), 409, "somebody else has changed it meanwhile"),
        (CasUnknown("no reply"), 503, "it may have been stored or not (no reply)"),
    ],
)
async def test_somebody_else_was_faster(
    tmp_path: Path, result: CasResult, status: int, words: str
) -> None:
    dcs = Raced()
    async with agent(dcs, tmp_path) as asked:
        dcs.result = result
        code, answer = await asked.ask("PATCH", {"ttl": 40})
        assert (code, words in answer["error"]) == (status, True)
        assert await asked.ask("GET") == (200, BEGUN)


async def test_a_store_that_does_not_answer(tmp_path: Path) -> None:
    dcs = MemoryDcs()
    async with agent(dcs, tmp_path) as asked:
        dcs.set_unavailable()
        assert (await asked.ask("PATCH", {"ttl": 40}))[0] == 503
        assert (await asked.ask("PUT", BEGUN))[0] == 502
        assert await asked.ask("GET") == (200, BEGUN)
