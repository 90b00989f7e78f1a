"""Every key that is accepted has a test that observes what it does, or that it is refused."""

import re
from pathlib import Path

import pytest

from pgregent.config.table import rows

TESTS = Path(__file__).parents[1]

AGENT = "conformance/test_agent_settings.py::test_where_it_is_found_and_what_it_logs"
NO_EFFECT = "config/test_remarks.py::test_what_has_no_effect_is_checked_and_said"
CALLBACKS = "conformance/test_agent_callbacks.py::test_start_reload_promotion_and_stop"
LIBPQ = (
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"),
    *("gssencmode", "channel_binding"),
)
ROLES = "conformance/test_server_files.py::test_each_role_connects_as_it_is_told"

EFFECTS = {
    "scope": AGENT,
    "name": "cluster/test_cli.py::test_list_why_and_history_answer",
    "namespace": AGENT,
    "restapi.listen": "cluster/test_cli.py::test_list_why_and_history_answer",
    "restapi.connect_address": AGENT,
    "thread_pool_size": NO_EFFECT,
    "thread_stack_size": NO_EFFECT,
    "restapi.request_queue_size": NO_EFFECT,
    "restapi.thread_pool_size": NO_EFFECT,
    "restapi.server_tokens": "api/test_access.py::test_server_tokens",
    "restapi.authentication.username": "api/test_access.py::test_user_and_password",
    "restapi.authentication.password": "api/test_access.py::test_user_and_password",
    "restapi.certfile": "api/test_tls.py::test_the_port_answers_with_tls_only",
    "restapi.keyfile": "api/test_tls.py::test_the_port_answers_with_tls_only",
    "restapi.keyfile_password": "api/test_tls.py::test_a_key_that_the_password_does_not_open",
    "restapi.cafile": "api/test_tls.py::test_certificates_of_clients",
    "restapi.ciphers": "api/test_tls.py::test_the_port_answers_with_tls_only",
    "restapi.verify_client": "api/test_tls.py::test_certificates_of_clients",
    "restapi.allowlist": "api/test_access.py::test_allowlist",
    "restapi.allowlist_include_members": "api/test_access.py::test_allowlist",
    "restapi.http_extra_headers": "api/test_access.py::test_headers_of_every_answer",
    "restapi.https_extra_headers": "api/test_tls.py::test_the_port_answers_with_tls_only",
    "ctl.authentication.username": "config/test_rest.py::test_sections_that_are_right",
    "ctl.authentication.password": "config/test_rest.py::test_sections_that_are_right",
    "ctl.insecure": "api/test_tls.py::test_ctl_says_how_others_are_asked",
    "ctl.cacert": "api/test_tls.py::test_ctl_says_how_others_are_asked",
    "ctl.certfile": "api/test_tls.py::test_ctl_says_how_others_are_asked",
    "ctl.keyfile": "api/test_tls.py::test_ctl_says_how_others_are_asked",
    "ctl.keyfile_password": "api/test_tls.py::test_ctl_says_how_others_are_asked",
    "postgresql.listen": "cluster/test_cli.py::test_ready_says_what_a_user_needs",
    "postgresql.connect_address": AGENT,
    "postgresql.data_dir": "cluster/test_cli.py::test_data_directory_of_another_cluster",
    "postgresql.bin_dir": "conformance/test_postgres_tools.py::"
    "test_find_bin_dir_refuses_what_is_incomplete_or_of_another_version",
    "postgresql.pgpass": "conformance/test_settings.py::"
    "test_the_password_file_is_where_pgpass_says",
    "postgresql.authentication.superuser.username": "conformance/test_postgres_port.py::"
    "test_an_initialised_primary_is_cloned_and_followed",
    "postgresql.authentication.superuser.password": "conformance/test_postgres_port.py::"
    "test_an_initialised_primary_is_cloned_and_followed",
    "postgresql.authentication.replication.username": "conformance/test_postgres_port.py::"
    "test_an_initialised_primary_is_cloned_and_followed",
    "postgresql.authentication.replication.password": "conformance/test_peers.py::"
    "test_keys_differ_by_secret_scope_and_direction",
    "postgresql.authentication.rewind.username": ROLES,
    "postgresql.authentication.rewind.password": ROLES,
    **{
        f"postgresql.authentication.{role}.{option}": "conformance/test_server_files.py::"
        "test_what_a_connection_is_told_counts"
        for role in ("superuser", "replication", "rewind")
        for option in LIBPQ
    },
    "postgresql.parameters": "conformance/test_settings.py::"
    "test_parameters_of_the_member_win_except_the_clusters",
    "postgresql.pg_hba": "conformance/test_settings.py::test_pg_hba_is_the_first_that_is_given",
    "postgresql.pg_ident": "conformance/test_server_files.py::test_pg_ident_says_who_may_be_whom",
    "postgresql.config_dir": "conformance/test_server_files.py::"
    "test_config_dir_has_postgresqls_files",
    "postgresql.custom_conf": "conformance/test_server_files.py::"
    "test_custom_conf_takes_the_place_of_the_original",
    "postgresql.basebackup": "conformance/test_server_files.py::"
    "test_basebackup_options_are_pg_basebackups",
    "postgresql.pg_ctl_timeout": "conformance/test_server_files.py::"
    "test_a_clean_stop_is_cut_short_after_pg_ctl_timeout",
    "postgresql.callbacks.on_start": CALLBACKS,
    "postgresql.callbacks.on_stop": CALLBACKS,
    "postgresql.callbacks.on_role_change": CALLBACKS,
    "postgresql.callbacks.on_reload": CALLBACKS,
    "postgresql.callbacks.on_restart": "conformance/test_agent_callbacks.py::"
    "test_a_restart_is_neither_stop_nor_start",
    "postgresql.use_unix_socket": "conformance/test_server_files.py::"
    "test_use_unix_socket_is_how_the_agent_connects",
    "postgresql.use_unix_socket_repl": NO_EFFECT,
    "zookeeper.hosts": "conformance/test_dcs_zookeeper.py::"
    "test_another_server_is_used_when_one_does_not_answer",
    "zookeeper.use_ssl": "conformance/test_dcs_zookeeper.py::test_tls",
    "zookeeper.cacert": "conformance/test_dcs_zookeeper.py::test_tls",
    "zookeeper.cert": "conformance/test_dcs_zookeeper.py::test_tls",
    "zookeeper.key": "conformance/test_dcs_zookeeper.py::test_tls",
    "zookeeper.key_password": "conformance/test_dcs_zookeeper.py::test_tls",
    "zookeeper.verify": "conformance/test_dcs_zookeeper.py::test_tls_refuses_another_host_name",
    "zookeeper.set_acls": "conformance/test_dcs_zookeeper.py::"
    "test_nobody_writes_without_the_credentials",
    "zookeeper.auth_data": "conformance/test_dcs_zookeeper.py::"
    "test_nobody_writes_without_the_credentials",
    "etcd3.hosts": "conformance/test_dcs_etcd.py::"
    "test_another_member_is_used_when_one_does_not_answer",
    "etcd3.host": "conformance/test_dcs_etcd.py::test_each_way_to_name_members_opens_them",
    "etcd3.url": "conformance/test_dcs_etcd.py::test_each_way_to_name_members_opens_them",
    "etcd3.protocol": "conformance/test_dcs_etcd.py::test_tls_with_an_authority_of_ones_own",
    "etcd3.username": "conformance/test_dcs_etcd.py::test_user_writes_what_nobody_else_may",
    "etcd3.password": "conformance/test_dcs_etcd.py::test_wrong_password_is_said_once",
    "etcd3.cacert": "conformance/test_dcs_etcd.py::test_tls_checks_authority_name_and_certificate",
    "etcd3.cert": "conformance/test_dcs_etcd.py::test_tls_checks_authority_name_and_certificate",
    "etcd3.key": "conformance/test_dcs_etcd.py::test_tls_with_an_authority_of_ones_own",
    "local.path": "cluster/test_cli.py::test_corrupt_register",
    "bootstrap.dcs.ttl": "config/test_outage.py::test_patronis_timers_change_nothing",
    "bootstrap.dcs.loop_wait": "config/test_outage.py::test_patronis_timers_change_nothing",
    "bootstrap.dcs.retry_timeout": "config/test_outage.py::test_patronis_timers_change_nothing",
    "bootstrap.dcs.maximum_lag_on_failover": "api/test_health.py::"
    "test_readiness_goes_by_the_configured_maximum",
    "bootstrap.dcs.synchronous_mode": "cli/test_config.py::"
    "test_what_an_agent_would_refuse_is_refused",
    "bootstrap.dcs.synchronous_mode_strict": "stories/test_settings.py::"
    "test_synchronous_mode_strict_lets_the_primary_never_acknowledge_alone",
    "bootstrap.dcs.synchronous_node_count": "stories/test_settings.py::"
    "test_synchronous_node_count_is_how_many_standbys_confirm",
    "bootstrap.dcs.primary_start_timeout": "stories/test_settings.py::"
    "test_a_server_that_does_not_answer_is_stopped_and_tried_again",
    "bootstrap.dcs.primary_stop_timeout": "config/test_dynamic.py::"
    "test_primary_stop_timeout_bounds_a_clean_stop",
    "bootstrap.dcs.maximum_lag_on_syncnode": NO_EFFECT,
    "bootstrap.dcs.max_timelines_history": NO_EFFECT,
    "bootstrap.dcs.primary_race_backoff": NO_EFFECT,
    "bootstrap.dcs.check_timeline": NO_EFFECT,
    "bootstrap.dcs.failsafe_mode": NO_EFFECT,
    "bootstrap.dcs.member_slots_ttl": "stories/test_settings.py::"
    "test_member_slots_ttl_is_how_long_a_missing_members_slot_is_kept",
    "bootstrap.dcs.slots": "conformance/test_settings.py::test_slots_that_are_kept_and_left_alone",
    "bootstrap.dcs.ignore_slots": "conformance/test_settings.py::"
    "test_slots_that_are_kept_and_left_alone",
    "bootstrap.dcs.pause": "stories/test_settings.py::test_pause_is_nobody_being_succeeded",
    "bootstrap.dcs.postgresql.use_pg_rewind": "stories/test_settings.py::"
    "test_use_pg_rewind_is_how_a_diverged_member_is_repaired",
    "bootstrap.dcs.postgresql.use_slots": "conformance/test_settings.py::"
    "test_without_slots_a_standby_streams_and_none_is_kept",
    "bootstrap.dcs.postgresql.parameters": "conformance/test_settings.py::"
    "test_parameters_of_the_member_win_except_the_clusters",
    "bootstrap.dcs.postgresql.pg_hba": "conformance/test_settings.py::"
    "test_pg_hba_is_the_first_that_is_given",
    "bootstrap.dcs.postgresql.pg_ident": "conformance/test_server_files.py::"
    "test_pg_ident_says_who_may_be_whom",
    "bootstrap.dcs.postgresql.basebackup": "conformance/test_server_files.py::"
    "test_basebackup_options_are_pg_basebackups",
    "bootstrap.dcs.postgresql.pg_ctl_timeout": "conformance/test_server_files.py::"
    "test_a_clean_stop_is_cut_short_after_pg_ctl_timeout",
    "bootstrap.initdb": "conformance/test_settings.py::test_initdb_takes_options",
    "bootstrap.post_bootstrap": "conformance/test_agent_post_bootstrap.py::"
    "test_it_is_run_once_and_its_failure_is_no_cluster",
    "bootstrap.pg_hba": "conformance/test_settings.py::test_pg_hba_is_the_first_that_is_given",
    "tags.nofailover": "stories/test_settings.py::"
    "test_member_tagged_nofailover_never_becomes_the_primary",
    "tags.noloadbalance": "api/test_health.py::test_each_check_in_each_situation",
    "tags.clonefrom": "config/test_load.py::test_each_mistake_says_where_and_what",
    "tags.nosync": "stories/test_settings.py::test_member_tagged_nosync_never_enters_the_rule",
    "tags.nostream": "config/test_load.py::test_each_mistake_says_where_and_what",
    "tags.failover_priority": "stories/test_settings.py::test_a_priority_of_0_is_the_flag",
    "tags.sync_priority": "stories/test_settings.py::test_a_priority_of_0_is_the_flag",
    "tags.replicatefrom": NO_EFFECT,
    "tags.(any other)": "api/test_health.py::test_what_a_check_may_ask_for",
    "watchdog.mode": "config/test_load.py::test_each_mistake_says_where_and_what",
    "watchdog.device": NO_EFFECT,
    "watchdog.safety_margin": NO_EFFECT,
    "log.level": AGENT,
    "log.type": "agent/test_log.py::test_json",
    "log.static_fields": "agent/test_log.py::test_json",
    "log.format": "agent/test_log.py::test_plain",
    "log.dateformat": "agent/test_log.py::test_plain",
    "log.traceback_level": "agent/test_log.py::test_tracebacks_at_the_level_debug_only",
    "log.dir": "agent/test_log.py::test_a_file_that_is_begun_anew",
    "log.mode": "agent/test_log.py::test_a_file_that_is_begun_anew",
    "log.file_num": "agent/test_log.py::test_a_file_that_is_begun_anew",
    "log.file_size": "agent/test_log.py::test_a_file_that_is_begun_anew",
    "log.loggers": "agent/test_log.py::test_single_loggers_and_what_they_were_before",
    "log.max_queue_size": "agent/test_log.py::test_nobody_waits_for_a_disk_that_hangs",
    "log.deduplicate_heartbeat_logs": NO_EFFECT,
    "pgregent.suspect_after": "stories/test_settings.py::"
    "test_silence_is_suspicious_after_suspect_after",
    "pgregent.lease": "stories/test_settings.py::"
    "test_lease_bounds_how_long_a_primary_that_is_cut_off_serves",
    "pgregent.standby_grace": "stories/test_settings.py::"
    "test_standby_grace_is_how_long_a_missing_standby_stays_in_the_rule",
    "pgregent.hold_timeout": "cli/test_hold_timeout.py::"
    "test_haproxy_holds_for_as_long_as_the_files_say",
    "pgregent.peers": "conformance/test_agent_settings.py::test_members_find_each_other_by_peers",
}


def exists(test: str) -> bool:
    file, name = test.split("::")
    path = TESTS / file
    pattern = rf"^(async )?def {re.escape(name)}\("
    return path.exists() and re.search(pattern, path.read_text(), re.MULTILINE) is not None


def test_every_accepted_key_is_listed_once() -> None:
    assert {row.key for row in rows()} == EFFECTS.keys()


@pytest.mark.parametrize("key", EFFECTS)
def test_the_test_of_the_key_exists(key: str) -> None:
    assert exists(EFFECTS[key]), EFFECTS[key]
