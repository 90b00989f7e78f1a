"""The gate's process: hears every agent and routes by the newest register."""

import uvloop

from pgregent.adapters.entry.gate import Gate
from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.cli.cluster_dir import HOST, ClusterDir
from pgregent.cli.route_feed import RouteFeed, stop_signal


def run_gate(cluster: ClusterDir) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    return uvloop.run(_run(cluster))


async def _run(cluster: ClusterDir) -> int:
    gate = Gate(hold_timeout=cluster.hold_timeout)
    feed = RouteFeed(gate.set_routes)
    key = derive_key(cluster.secret("replication"), cluster.scope)
    channel = PeerChannel("gate", key, feed.on_peer, subscriber=True)
    channel.set_peers({n.name: (HOST, n.rest_port) for n in cluster.nodes})
    stop = stop_signal()
    await gate.start((HOST, cluster.entry_port), (HOST, cluster.entry_ro_port))
    await channel.start()
    try:
        await feed.look_until(stop)
    finally:
        await channel.close()
        await gate.close()
    return 0
