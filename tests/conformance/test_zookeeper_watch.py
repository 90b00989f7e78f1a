"""The order in which a ZooKeeper's answers and events are read, which no real server can be made to
choose."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pgregent.adapters.dcs.zookeeper_watch import Watcher

PREFIX, PATH = "/service/demo", "/service/demo/register"


class Client:
    """Tells what is asked, and leaves it open."""

    def exists_async(self, path: str, watch: object) -> tuple[str, str]:
        return ("exists", path)

    def get_children_async(self, path: str, watch: object) -> tuple[str, str]:
        return ("children", path)


class Link:
    """What was asked and not answered yet."""

    def __init__(self) -> None:
        self.open: list[tuple[tuple[str, str], asyncio.Future[Any]]] = []

    def watcher(self, happened: Callable[[Any], None]) -> Callable[[Any], None]:
        return happened

    def ask(self, call: Callable[[Client], tuple[str, str]]) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.open.append((call(Client()), answer))
        return answer

    async def answer(self, kind: str, path: str, value: object) -> None:
        at = next(n for n, (asked, _) in enumerate(self.open) if asked == (kind, path))
        self.open.pop(at)[1].set_result(value)
        await asyncio.sleep(0)

    def asked(self, kind: str, path: str) -> bool:
        return any(asked == (kind, path) for asked, _ in self.open)


def event(kind: str, path: str) -> Any:
    return SimpleNamespace(type=kind, path=path)


async def test_an_answer_from_before_a_deletion_that_is_read_after_it() -> None:
    """A znode made again after that is watched again."""
    link: Any = Link()
    watcher = Watcher(PREFIX)
    watcher.begin(link)
    await link.answer("exists", PREFIX, SimpleNamespace(mzxid=1))
    await link.answer("children", PREFIX, ["register"])
    await link.answer("exists", PATH, SimpleNamespace(mzxid=2))
    await link.answer("children", PATH, [])
    assert watcher.complete.is_set()
    happened: Callable[[Any], None] = watcher._event
    happened(event("CHANGED", PATH))
    happened(event("DELETED", PATH))
    await link.answer("exists", PATH, SimpleNamespace(mzxid=3))
    watcher.changed.clear()
    happened(event("CHILD", PREFIX))
    await link.answer("children", PREFIX, ["register"])
    assert link.asked("exists", PATH)
    await link.answer("exists", PATH, SimpleNamespace(mzxid=5))
    assert watcher.changed.is_set()
