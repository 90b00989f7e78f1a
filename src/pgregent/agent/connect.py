"""The DCS that a configuration names: for agents, and for commands from elsewhere."""

from pathlib import Path

from pgregent.agent.loop import Keys
from pgregent.config.etcd import Etcd3
from pgregent.config.schema import AgentConfig
from pgregent.config.zookeeper import Zookeeper
from pgregent.core.errors import Refused
from pgregent.ports.dcs import Dcs


async def open_dcs(config: AgentConfig, client: str) -> Dcs:
    """Open it; `client` is a name that no other process uses.

    ZooKeeper and etcd may be away: then calls are Unavailable until they are there. Raises Refused,
    and Unavailable for a locked file.
    """
    if config.zookeeper is not None:
        return await _open_zookeeper(config.zookeeper, client)
    if config.etcd3 is not None:
        return await _open_etcd(config.etcd3, client)
    if config.local is None:
        raise Refused("the configuration names no DCS; expected `zookeeper`, `etcd3` or `local`")
    return await _open_local(config.local.path)


def keys(config: AgentConfig) -> Keys:
    """Where the cluster's values are in the DCS."""
    return Keys(f"{config.namespace}/{config.scope}/pgregent")


# Imported where they are used: an agent needs one of them, and its restart has to be short.


async def _open_local(path: Path) -> Dcs:
    from pgregent.adapters.dcs.local import LocalDcs

    return await LocalDcs.open(path)


async def _open_zookeeper(zookeeper: Zookeeper, client: str) -> Dcs:
    from pgregent.adapters.dcs.zookeeper import ZookeeperDcs
    from pgregent.adapters.dcs.zookeeper_options import ZookeeperOptions

    password = zookeeper.key_password
    options = ZookeeperOptions(
        hosts=tuple(str(host) for host in zookeeper.hosts),
        use_ssl=zookeeper.use_ssl,
        cacert=zookeeper.cacert,
        cert=zookeeper.cert,
        key=zookeeper.key,
        key_password=password.get_secret_value() if password is not None else None,
        verify=zookeeper.verify,
        set_acls=zookeeper.set_acls,
        auth_data={k: v.get_secret_value() for k, v in zookeeper.auth_data.items()},
    )
    return await ZookeeperDcs.open(options, client)


async def _open_etcd(etcd: Etcd3, client: str) -> Dcs:
    from pgregent.adapters.dcs.etcd import EtcdDcs, EtcdOptions

    username, password = etcd.login or (None, None)
    options = EtcdOptions(
        hosts=tuple(str(member) for member in etcd.members),
        protocol=etcd.scheme,
        username=username,
        password=password,
        cacert=etcd.cacert,
        cert=etcd.cert,
        key=etcd.key,
    )
    return await EtcdDcs.open(options, client)
