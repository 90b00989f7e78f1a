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
    "": DCS_LATER | _keys("citus thread_pool_size thread_stack_size"),
    "etcd3": _keys("proxy use_proxies srv srv_suffix"),
    "log": _keys(
        "type traceback_level format dateformat static_fields max_queue_size dir mode file_num"
        " file_size loggers deduplicate_heartbeat_logs"
    ),
    "restapi": _keys("request_queue_size server_tokens thread_pool_size"),
    "postgresql": _keys(
        "proxy_address config_dir bin_name callbacks create_replica_methods basebackup"
        " recovery_conf custom_conf pg_ident pg_ctl_timeout use_pg_rewind rewind pre_promote"
        " remove_data_directory_on_rewind_failure remove_data_directory_on_diverged_timelines"
        " before_stop use_unix_socket_repl krbsrvname config_base_name"
    ),
    "postgresql.authentication": frozenset({"rewind"}),
    "bootstrap": _keys("method post_bootstrap post_init users"),
    "bootstrap.dcs": _keys(
        "maximum_lag_on_syncnode max_timelines_history primary_stop_timeout master_stop_timeout"
        " primary_race_backoff failsafe_mode check_timeline pause member_slots_ttl slots"
        " permanent_slots permanent_replication_slots ignore_slots standby_cluster"
    ),
    "bootstrap.dcs.postgresql": _keys(
        "recovery_conf pg_ident rewind basebackup pg_ctl_timeout"
        " remove_data_directory_on_rewind_failure remove_data_directory_on_diverged_timelines"
        " create_replica_methods"
    ),
    "tags": _keys("failover_priority sync_priority replicatefrom nostream"),
    "watchdog": _keys("device safety_margin"),
}
