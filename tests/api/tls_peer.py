"""A peer as a process of its own: prints its port, and says that it is alive until it is killed.

Arguments: its name, the port of n1, certificate, key, authorities.
"""

import asyncio
import sys

import uvloop

from pgregent.adapters.peers import auth
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.api import server
from pgregent.api.tls import client_context, server_context
from pgregent.config.rest import Ctl, RestSecurity

LOOPBACK, LIMIT_S = "127.0.0.1", 60


async def run(name: str, other: int, certfile: str, keyfile: str, cafile: str) -> None:
    files = {"certfile": certfile, "keyfile": keyfile, "cafile": cafile}
    rest = RestSecurity.model_validate(files | {"verify_client": "required"})
    key = auth.derive_key("a secret of the tests", "demo")
    channel = PeerChannel(name, key, lambda _: None, tls=client_context(rest, Ctl()))
    runner = server.runner(server.application(channel.routes()))
    await runner.setup()
    await server.listen(runner, LOOPBACK, 0, server_context(rest))
    await channel.start()
    channel.set_peers({"n1": (LOOPBACK, other)})
    channel.publish(b"alive")
    print(runner.addresses[0][1], flush=True)
    await asyncio.sleep(LIMIT_S)


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]))
