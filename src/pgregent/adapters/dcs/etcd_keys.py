"""Patroni's keys in etcd: the ephemeral ones are attached to a lease of this agent."""

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from pgregent.adapters.dcs.etcd_call import Call
from pgregent.adapters.dcs.etcd_link import Declined, Message, Unsure, decoded, encoded
from pgregent.core.errors import Unavailable
from pgregent.ports.patroni_keys import Found, Guard

_NO_LEASE = "etcdserver: requested lease not found"


class EtcdKeys:
    """Through the link of an EtcdDcs. `call` begins a call there, `comparison` says what has to be
    so for a key to have a version (None: it has not); `ttl`: the lease's seconds, of which etcd
    may make more."""

    def __init__(
        self,
        call: Callable[[], AbstractContextManager[Call]],
        comparison: Callable[[str, int], list[Message] | None],
        ttl: int,
    ) -> None:
        self._call = call
        self._comparison = comparison
        self._ttl = ttl
        self._lease = ""
        self._renewed_at = 0.0

    async def read(self, keys: Collection[str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        await self._keep_alive()
        with self._call() as call:
            looks = [{"request_range": {"key": encoded(key)}} for key in keys]
            answer = await self._ask(call, "kv/txn", {"success": looks})
            for key, part in zip(keys, answer.get("responses", []), strict=True):
                for kv in part.get("response_range", {}).get("kvs", []):
                    held = bool(self._lease) and kv.get("lease") == self._lease
                    found[key] = Found(decoded(kv.get("value")), int(kv["mod_revision"]), held)
        return found

    async def put(
        self,
        key: str,
        value: bytes,
        found: Found | None,
        *,
        ephemeral: bool = False,
        guard: Guard | None = None,
    ) -> bool:
        lease = (self._lease or await self._grant()) if ephemeral else ""
        with self._call() as call:
            compare = [_unchanged(key, found)]
            if guard:
                known = self._comparison(guard.key, guard.version)
                if known is None:
                    return False
                compare += known
            put: dict[str, str] = {"key": encoded(key), "value": encoded(value)}
            if ephemeral:
                put["lease"] = lease
            message = {"compare": compare, "success": [{"request_put": put}]}
            return bool((await self._ask(call, "kv/txn", message)).get("succeeded"))

    async def remove(self, key: str, found: Found) -> bool:
        with self._call() as call:
            delete = {"request_delete_range": {"key": encoded(key)}}
            message = {"compare": [_unchanged(key, found)], "success": [delete]}
            return bool((await self._ask(call, "kv/txn", message)).get("succeeded"))

    # A call of its own each: a deadline that two share would end a connection that is only slow.

    async def _grant(self) -> str:
        with self._call() as call:
            answer = await self._ask(call, "lease/grant", {"TTL": str(self._ttl)})
        self._lease, self._renewed_at = str(answer["ID"]), time.monotonic()
        return self._lease

    async def _keep_alive(self) -> None:
        if not self._lease or time.monotonic() - self._renewed_at < self._ttl / 4:
            return
        with self._call() as call:
            answer = await self._ask(call, "lease/keepalive", {"ID": self._lease})
        self._renewed_at = time.monotonic()
        if not int(answer.get("TTL", 0)):
            self._lease = ""

    async def _ask(self, call: Call, path: str, message: Message) -> Message:
        """Where the lease is gone, nothing is done, and it is forgotten. Raises Unavailable."""
        try:
            return await call.link.ask(path, message, call.deadline)
        except Declined as declined:
            if not declined.said.startswith(_NO_LEASE):
                raise Unavailable("dcs", str(declined)) from None
            self._lease = ""
            return {}
        except Unsure as error:
            raise Unavailable("dcs", str(error)) from None


def _unchanged(key: str, found: Found | None) -> Message:
    if found is None:
        return {"key": encoded(key), "target": "CREATE", "create_revision": "0"}
    return {"key": encoded(key), "target": "MOD", "mod_revision": str(found.version)}
