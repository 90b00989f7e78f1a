"""Every key that is accepted has a test that observes what it does, or that it is refused."""

import re
from pathlib import Path

import pytest

from pgregent.config.table import rows

TESTS = Path(__file__).parents[1]

EFFECTS = {
    "scope": "conformance/test_peers.py::test_keys_differ_by_secret_scope_and_direction",
    "name": "cluster/test_cli.py::test_list_why_and_history_answer",
    "restapi.listen": "cluster/test_cli.py::test_list_why_and_history_answer",
    "postgresql.listen": "cluster/test_cli.py::test_ready_says_what_a_user_needs",
    "postgresql.data_dir": "cluster/test_cli.py::test_data_directory_of_another_cluster",
    "postgresql.bin_dir": "conformance/test_postgres_tools.py::"
    "test_find_bin_dir_refuses_what_is_incomplete_or_of_another_version",
    "postgresql.authentication.superuser.username": "conformance/test_postgres_port.py::"
    "test_an_initialised_primary_is_cloned_and_followed",
    "postgresql.authentication.superuser.password": "conformance/test_postgres_port.py::"
    "test_an_initialised_primary_is_cloned_and_followed",
    "postgresql.authentication.replication.username": "conformance/test_postgres_port.py::"
    "test_an_initialised_primary_is_cloned_and_followed",
    "postgresql.authentication.replication.password": "conformance/test_peers.py::"
    "test_keys_differ_by_secret_scope_and_direction",
    "postgresql.parameters": "config/test_parameters.py::"
    "test_a_members_own_win_except_the_clusters",
    "postgresql.pg_hba": "config/test_parameters.py::test_the_first_pg_hba_that_is_given_counts",
    "postgresql.use_unix_socket": "config/test_load.py::test_each_mistake_says_where_and_what",
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
    "local.path": "cluster/test_cli.py::test_corrupt_register",
    "bootstrap.dcs.ttl": "config/test_outage.py::test_patronis_timers_change_nothing",
    "bootstrap.dcs.loop_wait": "config/test_outage.py::test_patronis_timers_change_nothing",
    "bootstrap.dcs.retry_timeout": "config/test_outage.py::test_patronis_timers_change_nothing",
    "bootstrap.dcs.maximum_lag_on_failover": "api/test_health.py::"
    "test_readiness_goes_by_the_configured_maximum",
    "bootstrap.dcs.synchronous_mode": "cli/test_config.py::"
    "test_what_an_agent_would_refuse_is_refused",
    "bootstrap.dcs.synchronous_mode_strict": "stories/test_rules.py::"
    "test_strict_mode_waits_for_a_standby",
    "bootstrap.dcs.synchronous_node_count": "cli/test_config.py::"
    "test_what_an_agent_would_refuse_is_refused",
    "bootstrap.dcs.postgresql.use_pg_rewind": "stories/test_failover.py::"
    "test_diverged_log_is_repaired",
    "bootstrap.dcs.postgresql.parameters": "config/test_parameters.py::"
    "test_a_members_own_win_except_the_clusters",
    "bootstrap.dcs.postgresql.pg_hba": "config/test_parameters.py::"
    "test_the_first_pg_hba_that_is_given_counts",
    "bootstrap.pg_hba": "config/test_parameters.py::test_the_first_pg_hba_that_is_given_counts",
    "tags.nofailover": "stories/test_failover.py::test_member_tagged_nofailover_is_not_appointed",
    "tags.noloadbalance": "api/test_health.py::test_each_check_in_each_situation",
    "tags.clonefrom": "config/test_load.py::test_each_mistake_says_where_and_what",
    "tags.(any other)": "api/test_health.py::test_what_a_check_may_ask_for",
    "watchdog.mode": "config/test_load.py::test_each_mistake_says_where_and_what",
    "pgregent.lease": "stories/test_failover.py::"
    "test_cut_off_primary_is_fenced_and_the_others_go_on",
    "pgregent.standby_grace": "stories/test_rules.py::test_standby_dies_and_writes_go_on",
}

MISSING = {
    "namespace": "cluster/test_configuration.py::test_the_keys_are_under_the_namespace",
    "restapi.connect_address": "cluster/test_configuration.py::test_others_use_connect_address",
    "postgresql.connect_address": "cluster/test_configuration.py::test_others_use_connect_address",
    "postgresql.pgpass": "conformance/test_postgres_port.py::"
    "test_the_password_file_is_where_pgpass_says",
    "bootstrap.dcs.primary_start_timeout": "stories/test_failover.py::"
    "test_a_start_that_takes_too_long_is_tried_again",
    "bootstrap.dcs.postgresql.use_slots": "conformance/test_postgres_port.py::"
    "test_without_slots_a_standby_streams_and_none_is_kept",
    "bootstrap.initdb": "conformance/test_postgres_tools.py::test_initdb_takes_options",
    "tags.nosync": "stories/test_rules.py::test_member_tagged_nosync_never_enters_the_rule",
    "log.level": "cluster/test_configuration.py::test_debug_shows_how_long_each_step_took",
    "pgregent.suspect_after": "stories/test_failover.py::"
    "test_silence_is_suspicious_after_suspect_after",
    "pgregent.hold_timeout": "conformance/test_haproxy.py::"
    "test_the_hold_is_as_long_as_hold_timeout_says",
    "pgregent.peers": "cluster/test_configuration.py::test_members_find_each_other_by_peers",
}
"""Keys whose test does not exist yet; it moves to EFFECTS when it does."""


def exists(test: str) -> bool:
    file, name = test.split("::")
    path = TESTS / file
    pattern = rf"^(async )?def {re.escape(name)}\("
    return path.exists() and re.search(pattern, path.read_text(), re.MULTILINE) is not None


def test_every_accepted_key_is_listed_once() -> None:
    assert not EFFECTS.keys() & MISSING.keys()
    assert {row.key for row in rows()} == EFFECTS.keys() | MISSING.keys()


@pytest.mark.parametrize("key", EFFECTS)
def test_the_test_of_the_key_exists(key: str) -> None:
    assert exists(EFFECTS[key]), EFFECTS[key]


@pytest.mark.parametrize("key", MISSING)
def test_what_is_missing_is_missing(key: str) -> None:
    assert not exists(MISSING[key]), f"it exists: move {key} to EFFECTS"
