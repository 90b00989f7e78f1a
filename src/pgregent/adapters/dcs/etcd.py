"""The DCS in etcd 3.4 or newer, through its v3 JSON gateway: reads that a majority has agreed to,
writes that nobody sends twice.

A CAS is a transaction that compares the key's mod_revision, which a key that was deleted and made
again does not get a second time, and its value (see etcd_versions).
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count

from pgregent.adapters.dcs import etcd_options
from pgregent.adapters.dcs.etcd_call import Call
from pgregent.adapters.dcs.etcd_keys import EtcdKeys
from pgregent.adapters.dcs.etcd_link import (
    CALL_TIMEOUT_S,
    FAREWELL_S,
    Link,
    Message,
    Unsure,
    decoded,
    encoded,
)
from pgregent.adapters.dcs.etcd_options import EtcdOptions
from pgregent.adapters.dcs.etcd_versions import Versions
from pgregent.adapters.dcs.etcd_watch import Watcher, ranges
from pgregent.core.errors import Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasResult, CasUnknown, Versioned

CALLS_MAX = 32
RETRY_S = 0.2
# To check a password costs the server a tenth of a second of work.
LOGIN_RETRY_S = 2.0

log = logging.getLogger("pgregent")


class EtcdDcs:
    """A client of one etcd cluster. Create with `open`; end with `close`.

    Every call ends within CALL_TIMEOUT_S (1.2 s); a member without an answer by then is left for
    the next one. At most CALLS_MAX (32) calls wait at a time, further ones are Unavailable at once.
    A CAS conflicts until its client has read the key.
    """

    def __init__(self, options: EtcdOptions, client: str) -> None:
        """Raises Refused."""
        self._urls = list(etcd_options.urls(options))
        self._link_to = partial(
            Link, tls=etcd_options.tls(options), login=etcd_options.login(options)
        )
        self._client = client
        self._link: Link | None = None
        self._why = "no connection yet"
        self._connected = asyncio.Event()
        self._versions = Versions()
        self._watchers: list[Watcher] = []
        self._calls = 0
        self._closed = False
        random.shuffle(self._urls)
        self._connecting = asyncio.create_task(self._keep_connected())

    @classmethod
    async def open(cls, options: EtcdOptions, client: str) -> "EtcdDcs":
        """Connect, for ever; returns after CALL_TIMEOUT_S also while no member answers.

        `client` is the agent's name, for the log. Raises Refused.
        """
        dcs = cls(options, client)
        wait = asyncio.ensure_future(dcs._connected.wait())
        try:
            await asyncio.wait([wait], timeout=CALL_TIMEOUT_S)
        except BaseException:
            await dcs.close()
            raise
        finally:
            wait.cancel()
        return dcs

    async def read(self, prefix: str) -> Mapping[str, Versioned]:
        with self._call() as call:
            looks = [{"request_range": range_} for range_ in ranges(prefix)]
            try:
                answer = await call.ask("kv/txn", {"success": looks})
            except Unsure as error:
                raise Unavailable("dcs", str(error)) from None
            if not self._versions.answered(call.sent, _revision(answer)):
                raise Unavailable("dcs", "the store came back older meanwhile")
            return self._found(prefix, answer)

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        with self._call() as call:
            compare = self._comparison(key, expected_version)
            if compare is None:
                return CasConflict()
            put = {"request_put": {"key": encoded(key), "value": encoded(value)}}
            try:
                answer = await call.ask("kv/txn", {"compare": compare, "success": [put]}, once=True)
            except Unsure as error:
                return CasUnknown(str(error))
            is_comparable = self._versions.answered(call.sent, _revision(answer))
            if not answer.get("succeeded"):
                return CasConflict()
            if is_comparable:
                return CasDone(self._versions.note(key, _revision(answer), value))
            # A number that no later read shows.
            return CasDone((call.sent.lives << 64) + _revision(answer))

    async def put(self, key: str, value: bytes) -> None:
        with self._call() as call:
            try:
                answer = await call.ask("kv/put", {"key": encoded(key), "value": encoded(value)})
            except Unsure as error:
                raise Unavailable("dcs", str(error)) from None
            self._versions.answered(call.sent, _revision(answer))

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        watcher = Watcher(prefix)
        self._watchers.append(watcher)
        try:
            if self._link is not None:
                watcher.begin(self._link)
                with suppress(TimeoutError):
                    await asyncio.wait_for(watcher.complete.wait(), CALL_TIMEOUT_S)
            while not self._closed:
                watcher.changed.clear()
                yield None
                await watcher.changed.wait()
        finally:
            watcher.stop()
            self._watchers.remove(watcher)

    def patroni_keys(self, ttl: int) -> EtcdKeys:
        return EtcdKeys(self._call, self._comparison, ttl)

    async def close(self) -> None:
        self._closed = True
        self._why = "closed"
        self._connecting.cancel()
        for watcher in self._watchers:
            watcher.stop()
            watcher.changed.set()
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        await asyncio.wait([self._connecting], timeout=FAREWELL_S)

    # --- the connection ------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        said: set[str] = set()
        for attempt in count():
            link = self._link_to(self._urls[attempt % len(self._urls)])
            try:
                await link.connect()
            except Unavailable as error:
                self._why = error.reason
                if self._why not in said:
                    log.warning("%s: not connected to %s", self._client, self._why)
                    said.add(self._why)
                await link.close()
                pause = LOGIN_RETRY_S if link.is_login_refused else RETRY_S
                await asyncio.sleep(pause / len(self._urls))
                continue
            except asyncio.CancelledError:
                await link.close()
                raise
            log.info("%s: connected to etcd %s", self._client, link.url)
            self._begin(link)
            await link.ended.wait()
            self._link = None
            self._why = link.why
            said.clear()
            log.warning("%s: connection lost to %s", self._client, self._why)
            await link.close()

    def _begin(self, link: Link) -> None:
        self._link = link
        for watcher in self._watchers:
            watcher.begin(link)
        self._connected.set()

    @contextmanager
    def _call(self) -> Generator[Call]:
        """Begin a call. Raises Unavailable: nothing was sent."""
        if self._link is None or self._link.ended.is_set():
            raise Unavailable("dcs", self._why if self._link is None else self._link.why)
        if self._calls >= CALLS_MAX:
            raise Unavailable("dcs", f"{CALLS_MAX} calls are waiting already")
        self._calls += 1
        try:
            deadline = time.monotonic() + CALL_TIMEOUT_S
            yield Call(self._link, deadline, self._versions.now())
        finally:
            self._calls -= 1

    # --- what is stored ------------------------------------------------------------------------

    def _comparison(self, key: str, expected_version: int) -> list[Message] | None:
        """Return what has to be so for a CAS; None: it is known not to be."""
        if expected_version == 0:
            return [{"key": encoded(key), "target": "CREATE", "create_revision": "0"}]
        known = self._versions.known(key, expected_version)
        if known is None:
            return None
        return [
            {"key": encoded(key), "target": "MOD", "mod_revision": str(known.revision)},
            {"key": encoded(key), "target": "VALUE", "value": encoded(known.value)},
        ]

    def _found(self, prefix: str, answer: Message) -> dict[str, Versioned]:
        found: dict[str, Versioned] = {}
        for part in answer.get("responses", []):
            for kv in part.get("response_range", {}).get("kvs", []):
                key, value = decoded(kv["key"]).decode(errors="replace"), decoded(kv.get("value"))
                version = self._versions.note(key, int(kv["mod_revision"]), value)
                found[key] = Versioned(value, version)
        path = prefix.rstrip("/")
        self._versions.forget(
            lambda key: key not in found and _is_under(key, path), _revision(answer)
        )
        return found


def _is_under(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}/")


def _revision(answer: Message) -> int:
    return int(answer["header"]["revision"])
