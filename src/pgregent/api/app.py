"""All endpoints of an agent, besides the channel between agents. docs/openapi.yaml lists them."""

from aiohttp import web

from pgregent.api import configuration, server, status
from pgregent.api.actions import Actions
from pgregent.api.cluster import Cluster
from pgregent.api.configuration import Stored
from pgregent.api.maintenance import Maintenance
from pgregent.api.node import Node
from pgregent.api.operate import Operate
from pgregent.api.signed_config import SignedConfig
from pgregent.api.status import Processes


def routes(
    node: Node,
    processes: Processes,
    stored: Stored,
    actions: Actions,
    operate: Operate,
    *,
    maintenance: Maintenance,
    signed_config: SignedConfig,
    cluster: Cluster,
) -> list[web.RouteDef]:
    """What the agent's web application mounts."""
    return [
        *status.routes(node, processes),
        *server.routes(node),
        *cluster.routes(),
        *configuration.routes(stored),
        *actions.routes(),
        *operate.routes(),
        *maintenance.routes(),
        *signed_config.routes(),
    ]
