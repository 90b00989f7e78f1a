"""Watching a prefix of ZooKeeper with its one-shot watches."""

import asyncio
from collections.abc import Callable
from typing import Any

from kazoo.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    NoAuthError,
    NoNodeError,
)

from pgregent.adapters.dcs.zookeeper_link import Answer, Link

MARK = ".pgregent-"


def join(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


def is_hidden(path: str, name: str) -> bool:
    return name.startswith(MARK) or (path, name) == ("/", "zookeeper")


class Watcher:
    """One `watch`: ZooKeeper's one-shot watches on every znode under the prefix, set anew.

    `changed` is set when the server's reply to setting a watch shows a new version, not when a
    watch fires: so a change is reported that came between the two, and none is reported twice.
    """

    def __init__(self, prefix: str) -> None:
        self.changed = asyncio.Event()
        self.complete = asyncio.Event()
        self.link: Link | None = None
        self._prefix = prefix
        self._seen: dict[str, int] = {}
        self._asked = 0

    def begin(self, link: Link) -> None:
        """Watch on this connection; what happened before it is unknown.

        `complete` is set when all watches are, and `changed` then, too.
        """
        self.link = link
        self.complete.clear()
        self._seen, self._asked = {}, 0
        self._event = link.watcher(lambda event: self._happened(link, event))
        self._look(link, self._prefix)

    def _look(self, link: Link, path: str) -> None:
        self._seen[path] = 0
        self._look_at_data(link, path)
        self._look_at_children(link, path)

    def _look_at_data(self, link: Link, path: str) -> None:
        # It also waits for a znode that is not there.
        answer = link.ask(lambda client: client.exists_async(path, watch=self._event))
        self._expect(link, path, answer, self._found)

    def _look_at_children(self, link: Link, path: str) -> None:
        answer = link.ask(lambda client: client.get_children_async(path, watch=self._event))
        self._expect(link, path, answer, self._listed)

    def _expect(
        self,
        link: Link,
        path: str,
        answer: "asyncio.Future[Answer]",
        take: Callable[[Link, str, Answer], None],
    ) -> None:
        self._asked += 1
        answer.add_done_callback(lambda answer: self._answered(link, path, answer.result(), take))

    def _answered(
        self, link: Link, path: str, answer: Answer, take: Callable[[Link, str, Answer], None]
    ) -> None:
        if link is not self.link:
            return
        self._asked -= 1
        if not isinstance(answer, Exception):
            take(link, path, answer)
        elif not isinstance(answer, NoNodeError | NoAuthError):
            # Changes would be missed. (Without permission reading fails too, and says so.)
            link.end(f"cannot watch {path}: {type(answer).__name__}")
            return
        if self._asked == 0 and not self.complete.is_set():
            self.complete.set()
            self.changed.set()

    def _found(self, link: Link, path: str, stat: Any) -> None:
        version = stat.mzxid if stat is not None else 0
        # What the server said of it before it was deleted may be read after that.
        if path in self._seen and version != self._seen[path]:
            self._seen[path] = version
            self._report()

    def _listed(self, link: Link, path: str, names: list[str]) -> None:
        for name in names:
            child = join(path, name)
            if child not in self._seen and not is_hidden(path, name):
                self._look(link, child)

    def _report(self) -> None:
        if self.complete.is_set():
            self.changed.set()

    def _happened(self, link: Link, event: Any) -> None:
        if link is not self.link:
            return
        match event.type:
            case "CHANGED":
                self._look_at_data(link, event.path)
            case "CHILD":
                self._look_at_children(link, event.path)
            case "CREATED":
                self._look(link, event.path)
            case "DELETED" if event.path == self._prefix:
                self._look_at_data(link, event.path)
            case "DELETED":
                self._seen.pop(event.path, None)
                self._report()
            case _:
                # "NONE": the connection was lost.
                pass
