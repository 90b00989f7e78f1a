"""The JSON and the metrics that tools read."""

from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from pgregent import __version__
from pgregent.api import metrics, patroni
from pgregent.core.types import PgState, Postgres, Rule
from tests.api.members import (
    END,
    EPOCH,
    LOOPBACK,
    N1,
    N2,
    SYSTEM_ID,
    node,
    primary,
    served,
    standby,
    with_register,
)


def own(document: dict[str, Any]) -> dict[str, Any]:
    return document.pop("pgregent")


def test_a_primary() -> None:
    document = patroni.member(node(primary(), tags={"clonefrom": True, "nosync": False}))
    assert own(document) == {
        "version": __version__,
        "serving": True,
        "why": "all is well",
        "term": 3,
        "round": 2,
        "electing": False,
        "rules": ["ANY 1 (n2)"],
    }
    assert document == {
        "state": "running",
        "role": "primary",
        "xlog": {"location": END},
        "replication": [
            {
                "application_name": N2.label,
                "state": "streaming",
                "sync_state": "quorum",
                "sync_priority": 1,
            },
            {"application_name": "pg_receivewal", "sync_state": "async", "sync_priority": 0},
        ],
        "timeline": 3,
        "dcs_last_seen": int(EPOCH - 0.5),
        "tags": {"clonefrom": True},
        "database_system_identifier": SYSTEM_ID,
        "patroni": {"version": "4.1.4", "scope": "demo", "name": "n1"},
    }


def test_a_standby() -> None:
    document = patroni.member(node(standby(), mode="on"))
    own(document)
    assert document == {
        "state": "running",
        "role": "replica",
        "xlog": {
            "received_location": END - 256,
            "replayed_location": END - 512,
            "paused": False,
        },
        "replication_state": "streaming",
        "timeline": 3,
        "sync_standby": True,
        "dcs_last_seen": int(EPOCH - 0.5),
        "database_system_identifier": SYSTEM_ID,
        "patroni": {"version": "4.1.4", "scope": "demo", "name": "n2"},
    }
    assert patroni.member(node(standby()))["quorum_standby"] is True


def test_a_member_that_knows_nothing() -> None:
    made = primary()
    made.postgres, made.read_at = Postgres(PgState.UNKNOWN), float("-inf")
    document = patroni.member(node(with_register(made, electing=True)))
    assert (document["state"], document["cluster_unlocked"]) == ("unknown", True)
    assert document["dcs_last_seen"] == 0
    assert not {"xlog", "timeline", "replication"} & document.keys()


def test_a_primary_without_the_dcs() -> None:
    made = primary()
    made.dcs_ok = False
    assert patroni.member(node(made))["failsafe_mode_is_active"] is True


def test_the_cluster() -> None:
    made = standby()
    made.peers["n3"].record = None
    document = patroni.cluster(node(made, mode="on", tags={"nosync": False}), {})
    assert document == {
        "scope": "demo",
        "members": [
            {
                "name": "n1",
                "role": "leader",
                "state": "running",
                "api_url": f"http://{LOOPBACK}:8008/patroni",
                "host": LOOPBACK,
                "port": 5432,
                "timeline": 3,
            },
            {
                "name": "n2",
                "role": "sync_standby",
                "state": "streaming",
                "api_url": "http://x/patroni",
                "host": LOOPBACK,
                "port": 5432,
                "timeline": 3,
                "receive_lsn": "0/5000000",
                "receive_lag": 256,
                "replay_lsn": "0/4FFFF00",
                "replay_lag": 512,
                "lsn": "0/5000000",
                "lag": 256,
            },
        ],
    }


def test_the_cluster_in_an_election_has_no_leader() -> None:
    made = with_register(standby(), electing=True)
    made.peers["n1"].closed = True
    members = {m["name"]: m for m in patroni.cluster(node(made), {})["members"]}
    assert [m["role"] for m in members.values()] == ["replica", "quorum_standby", "replica"]
    assert members["n1"]["state"] == "unknown"
    assert members["n3"]["state"] == "streaming"


def test_lag_in_the_cluster_is_unknown_without_the_primarys_word() -> None:
    made = standby()
    made.peers["n1"].record = None
    members = patroni.cluster(node(made), {})["members"]
    assert [(m["lsn"], m["lag"]) for m in members] == [("0/5000000", "unknown")] * 2


def test_history() -> None:
    assert patroni.history(node(primary())) == [
        [1, 0x3000060, "n2 was killed", "2023-11-14T21:56:40+00:00", "n1"]
    ]


def measured(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            assert sample.labels["scope"] == "demo"
            # This parser, unlike Prometheus, lets every counter's name end so.
            name = sample.name.removesuffix("_total")
            assert name not in found
            found[name] = sample.value
    return found


def test_metrics_of_a_primary() -> None:
    text = metrics.text(node(primary()))
    assert 'patroni_version{scope="demo",name="n1"} 040104\n' in text
    assert "# TYPE patroni_xlog_location counter\n" in text
    found = measured(text)
    expected = {
        "patroni_postgres_running": 1,
        "patroni_primary": 1,
        "patroni_replica": 0,
        "patroni_xlog_location": END,
        "patroni_xlog_received_location": 0,
        "patroni_quorum_standby": 0,
        "patroni_postgres_timeline": 3,
        "patroni_postgres_state": 5,
        "patroni_cluster_unlocked": 0,
        "patroni_dcs_last_seen": int(EPOCH - 0.5),
        "patroni_failover_priority": 1,
        "pgregent_serving": 1,
        "pgregent_authority_seconds": 4.5,
        "pgregent_term": 3,
        "pgregent_round": 2,
        "pgregent_register_seq": 7,
        "pgregent_rules": 1,
        "pgregent_rule_k": 1,
        "pgregent_dcs_up": 1,
        "pgregent_info": 1,
    }
    assert expected.items() <= found.items()


def test_metrics_of_a_standby() -> None:
    found = measured(metrics.text(node(standby(), mode="on")))
    expected = {
        "patroni_primary": 0,
        "patroni_replica": 1,
        "patroni_sync_standby": 1,
        "patroni_quorum_standby": 0,
        "patroni_xlog_location": 0,
        "patroni_xlog_received_location": END - 256,
        "patroni_xlog_replayed_location": END - 512,
        "patroni_postgres_streaming": 1,
        "pgregent_serving": 0,
        "pgregent_authority_seconds": 0,
    }
    assert expected.items() <= found.items()


def test_a_lone_primary_has_authority_without_end() -> None:
    made = with_register(primary(), rules=(Rule(N1, 0, ()),))
    found = measured(metrics.text(node(made)))
    assert found["pgregent_authority_seconds"] == float("inf")


def test_metrics_of_a_dead_primary() -> None:
    made = primary()
    made.postgres = Postgres(PgState.STOPPED)
    found = measured(metrics.text(node(made)))
    assert (found["patroni_primary"], found["patroni_postgres_state"]) == (0, 14)


async def test_documents_over_http() -> None:
    subject = node(primary())
    async with served(subject) as port, aiohttp.ClientSession() as session:
        for path, document in {
            "/patroni": patroni.member(subject),
            "/primary": patroni.member(subject),
            "/replica": patroni.member(subject),
            "/history": patroni.history(subject),
        }.items():
            async with session.get(f"http://{LOOPBACK}:{port}{path}") as answer:
                assert await answer.json() == document
        async with session.get(f"http://{LOOPBACK}:{port}/metrics") as answer:
            assert answer.content_type == "text/plain"
            assert await answer.text() == metrics.text(subject)


def test_what_waits_for_a_start_of_postgresql() -> None:
    found = {"max_connections": ("100", "200")}
    subject = node(primary(), pending_restart=found)
    told = {"max_connections": {"old_value": "100", "new_value": "200"}}
    assert patroni.member(subject)["pending_restart"] is True
    assert patroni.member(subject)["pending_restart_reason"] == told
    of_n2 = {"pending_restart": True, "pending_restart_reason": {}}
    own, other, third = patroni.cluster(subject, {"n2": of_n2})["members"]
    assert (own["name"], own["pending_restart_reason"]) == ("n1", told)
    assert other | of_n2 == other
    assert "pending_restart" not in third
    assert measured(metrics.text(subject))["patroni_pending_restart"] == 1
    subject.pending_since = subject.state.server_started_at
    assert patroni.member(subject)["pending_restart"]
    subject.state.server_started_at = 7.0
    assert "pending_restart" not in patroni.member(subject), "it was started since"
    assert measured(metrics.text(node(primary())))["patroni_pending_restart"] == 0
    assert "pending_restart" not in patroni.member(node(primary()))
