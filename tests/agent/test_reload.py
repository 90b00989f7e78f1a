"""What a reload uses: never an older half than what is in force."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import yaml

from pgregent.agent.reload import Hooks, Reload
from pgregent.config.dynamic import Dcs
from pgregent.config.load import Loaded, check_config, parse_dynamic
from pgregent.config.schema import AgentConfig


def a_config() -> AgentConfig:
    role = {"username": "postgres", "password": "one"}
    content = {
        "scope": "demo",
        "name": "n1",
        "restapi": {"listen": "127.0.0.1:8008"},
        "postgresql": {
            "listen": "127.0.0.1:5432",
            "data_dir": "/nowhere/data",
            "authentication": {"superuser": role, "replication": role},
        },
        "local": {"path": "/nowhere/dcs.sqlite"},
        "bootstrap": {"dcs": {"synchronous_mode": True}},
    }
    config, found = check_config(yaml.safe_dump(content), {})
    assert config is not None, found
    return config


def dynamic(lag: int) -> Dcs:
    return parse_dynamic(f'{{"synchronous_mode": true, "maximum_lag_on_failover": {lag}}}', "").dcs


class NoServer:
    async def pending_restart(self) -> Mapping[str, tuple[str, str]]:
        return {}


async def test_a_reload_during_a_change_does_not_put_the_old_one_back() -> None:
    config, prepared, go_on = a_config(), asyncio.Event(), asyncio.Event()
    taken: list[Dcs] = []

    async def prepare(
        config: AgentConfig, dynamic: Dcs, *, files: bool
    ) -> Callable[[], Awaitable[None]]:
        prepared.set()
        await go_on.wait()
        return _nothing

    hooks = Hooks(lambda: Loaded(config, (), ()), prepare, lambda _, d: taken.append(d), _ignore)
    reload = Reload(config, dynamic(1), NoServer(), hooks)
    change = asyncio.create_task(reload.change(dynamic(2)))
    await prepared.wait()
    file = asyncio.create_task(reload.file())
    await asyncio.wait({file}, timeout=0.2)  # It gets as far as it can.
    go_on.set()
    await asyncio.gather(change, file)
    assert taken == [dynamic(2), dynamic(2)]


async def _nothing() -> None:
    pass


def _ignore(_: object) -> None:
    pass
