"""The rows of `pgregent list`, from what the agents say."""

from pathlib import Path
from typing import Any

from pgregent.cli.list import SILENT, columns_of, member_rows
from pgregent.cli.roles import ROLES, has_role
from pgregent.cli.statuses import Statuses
from pgregent.cli.target import Target

N1: dict[str, Any] = {
    "name": "n1",
    "primary": "n1",
    "members": [
        {"name": "n1", "host": "pg1", "port": 5432, "role": "leader", "state": "running"},
        {"name": "n2", "host": "pg2", "port": 5432, "role": "quorum_standby", "why": "it streams"},
    ],
    "tags": {"zone": "b"},
    "pending_restart": {"max_connections": ["200", "201"], "wal_level": ["replica", "logical"]},
}
ALWAYS = 11
TARGET = Target("demo", Path("/a.yml"), {"n1": ("pg1", 8008), "n2": ("pg2", 8008)}, lambda: "")


def test_what_a_member_tells_of_itself_is_shown_where_there_is_any():
    rows = member_rows(TARGET, Statuses({"n1": N1, "n2": None}))
    assert [row["Host"] for row in rows] == ["pg1:5432", "pg2:5432"]
    assert [row["Role"] for row in rows] == ["Leader", "Quorum Standby"]
    assert [row["Pending restart"] for row in rows] == ["*", ""]
    assert rows[0]["Pending restart reason"].splitlines() == [
        "max_connections: 200->201",
        "wal_level: replica->logical",
    ]
    assert [row["Tags"] for row in rows] == [{"zone": "b"}, ""]
    assert rows[1]["Why"] == f"{SILENT}; it streams"
    assert {"Pending restart", "Pending restart reason", "Tags"} <= set(columns_of(rows))


def test_columns_without_a_value_are_shown_when_they_are_asked_for():
    rows = member_rows(TARGET, Statuses({"n1": {**N1, "tags": {}, "pending_restart": {}}}))
    assert len(columns_of(rows)) == ALWAYS
    assert len(columns_of(rows, extended=True)) == ALWAYS + 3


def test_roles():
    def of(role: str, primary: str | None) -> str:
        return "".join(name for name in "abc" if has_role(name, primary, role))

    assert {role: of(role, "b") for role in ROLES} == {
        "leader": "b",
        "primary": "b",
        "standby-leader": "",
        "replica": "ac",
        "standby": "ac",
        "any": "abc",
    }
    assert of("leader", None) == ""
