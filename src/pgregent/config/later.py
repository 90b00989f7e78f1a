"""Patroni's keys that are known and come later, by section: each is refused by its name."""

from collections.abc import Mapping


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


DCS_LATER = _keys("etcd consul exhibitor kubernetes raft")
ETCD_V2 = (
    "etcd's v2 API is not supported, and its keys are not seen through v3: for etcd 3.4 or newer "
    "write etcd3"
)

LATER: Mapping[str, frozenset[str]] = {
    "": DCS_LATER | _keys("citus"),
    "etcd3": _keys("proxy use_proxies srv srv_suffix"),
    "postgresql": _keys(
        "proxy_address bin_name create_replica_methods"
        " recovery_conf use_pg_rewind rewind pre_promote"
        " remove_data_directory_on_rewind_failure remove_data_directory_on_diverged_timelines"
        " before_stop krbsrvname config_base_name"
    ),
    **{
        f"postgresql.authentication.{role}": _keys("sslpassword sslnegotiation")
        for role in ("superuser", "replication", "rewind")
    },
    "bootstrap": _keys("method users"),
    "bootstrap.dcs": _keys("standby_cluster"),
    "bootstrap.dcs.postgresql": _keys(
        "recovery_conf rewind"
        " remove_data_directory_on_rewind_failure remove_data_directory_on_diverged_timelines"
        " create_replica_methods"
    ),
}
