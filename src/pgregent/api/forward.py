"""Has the primary's agent begin what this one was asked for."""

import json
import ssl
from dataclasses import dataclass

import aiohttp
from yarl import URL

from pgregent.api.signed import HEADER, SWITCHOVER, sign
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Switchover

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Forward:
    """Requests are signed with the cluster's `key`."""

    key: bytes
    tls: ssl.SSLContext | None

    async def switchover(self, api_url: str, asked: Switchover) -> None:
        """Ask the agent there. Raises Refused with its reason, and Unavailable."""
        body = json.dumps({"term": asked.term, "candidate": asked.candidate}).encode()
        headers = {HEADER: sign(self.key, SWITCHOVER, body)}
        url = URL(api_url).with_path(SWITCHOVER)
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        tls = True if self.tls is None else self.tls
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.post(
                    url, data=body, headers=headers, ssl=tls, allow_redirects=False
                ) as answer,
            ):
                status, document = answer.status, await answer.json()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable("peer", f"no answer from {url}: {error!r}") from None
        if status == 409:
            raise Refused(str(document.get("error")))
        if status != 202:
            raise Unavailable("peer", f"{url} answers {status}: {document}")
