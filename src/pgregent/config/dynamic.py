"""The dynamic configuration: the same for all members, kept in the DCS in Patroni's shape."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from pgregent.config.basebackup import Options
from pgregent.config.parameters import Parameters
from pgregent.config.section import NO_EFFECT, Flag, Lines, Section
from pgregent.config.slots import Ignored, Slots
from pgregent.config.types import DURATION, choice, integer, seconds

_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


class DcsPostgresql(Section):
    """What the servers of all members have in common."""

    use_pg_rewind: Flag = Field(
        default=True, description="repair a diverged member with pg_rewind; false: clone it"
    )
    use_slots: Flag = Field(
        default=True, description="keep a replication slot for every member on the primary"
    )
    parameters: Parameters = Field(default={}, description="PostgreSQL's parameters")
    pg_hba: Lines = Field(
        default=(), description="lines of pg_hba.conf, where postgresql.pg_hba is not given"
    )
    pg_ident: Lines = Field(
        default=(), description="lines of pg_ident.conf, where postgresql.pg_ident is not given"
    )
    basebackup: Options = Field(
        default=(),
        description="options of pg_basebackup, where postgresql.basebackup is not given",
    )
    pg_ctl_timeout: Annotated[float, seconds(1, 3600)] = Field(
        default=30,
        description="how long a clean stop of PostgreSQL may take before it is killed; with more "
        "than 90, systemd has to wait longer for the agent, too (`TimeoutStopSec`)",
    )


class Dcs(Section):
    """The dynamic configuration."""

    ttl: Annotated[float, seconds(1, 3600)] = Field(
        default=30, description="nothing waits for it: see below"
    )
    loop_wait: Annotated[float, seconds(0.1, 3600)] = Field(
        default=10, description="nothing waits for it: see below"
    )
    retry_timeout: Annotated[float, seconds(0.1, 3600)] = Field(
        default=10, description="nothing waits for it: see below"
    )
    maximum_lag_on_failover: Annotated[int, integer(0, 2**62)] = Field(
        default=1048576,
        description="bytes that a standby may be behind and still be ready (`/readiness`); who may"
        " succeed does not depend on it: only a member with everything acknowledged can",
    )
    synchronous_mode: Annotated[
        Literal["off", "on", "quorum"], choice("off", "on", "quorum", true="on", false="off")
    ] = Field(
        default="off",
        description="`on` and `quorum` are the same here: `ANY k`; `off`, Patroni's default, is "
        "not supported yet, so this has to be given",
    )
    synchronous_mode_strict: Flag = Field(
        default=False,
        description="never let the primary acknowledge alone: writes wait for a standby",
    )
    synchronous_node_count: Annotated[int, integer(1, 100)] = Field(
        default=1, description="standbys that confirm a commit, as far as so many stream"
    )
    primary_start_timeout: Annotated[float, seconds(0, 86400)] = Field(
        default=300,
        validation_alias=AliasChoices("primary_start_timeout", "master_start_timeout"),
        description="how long a server may go without an answer while it starts before it is "
        "stopped and tried again; a primary starts in place only when nobody can succeed it",
    )
    primary_stop_timeout: Annotated[float, seconds(0, 3600)] = Field(
        default=0,
        validation_alias=AliasChoices("primary_stop_timeout", "master_stop_timeout"),
        description="how long a clean stop of PostgreSQL may take before it is killed; 0: as "
        "pg_ctl_timeout says",
    )
    maximum_lag_on_syncnode: Annotated[int, integer(-1, 2**62)] = Field(
        default=-1,
        description=f"{NO_EFFECT}: any of the standbys confirm a commit, so it waits for the "
        "fastest ones",
    )
    max_timelines_history: Annotated[int, integer(0, 2**31)] = Field(
        default=0, description=f"{NO_EFFECT}: the newest 32 terms are kept"
    )
    primary_race_backoff: Annotated[float, seconds(0, 86400)] = Field(
        default=0, description=f"{NO_EFFECT}: members vote, they do not race"
    )
    check_timeline: Flag = Field(
        default=False, description=f"{NO_EFFECT}: a log that ends on an older timeline never wins"
    )
    failsafe_mode: Flag = Field(
        default=False,
        description=f"{NO_EFFECT}: a primary without the DCS serves while its standbys answer, in "
        "any case",
    )
    member_slots_ttl: Annotated[float, DURATION] = Field(
        default=1800,
        description="how long the primary keeps the slot of a member that is not heard; `ttl` at "
        "least",
    )
    slots: Slots = Field(
        default={},
        validation_alias=AliasChoices("slots", "permanent_slots", "permanent_replication_slots"),
        description="physical slots that the primary has besides the members'",
    )
    ignore_slots: Ignored = Field(
        default=(),
        description="physical slots that the primary leaves alone; it drops others that are of no "
        "member, and that nobody uses",
    )
    pause: Flag = Field(
        default=False,
        description="nobody is succeeded, and a PostgreSQL that somebody shuts down stays down: "
        "`pgregent pause`, `pgregent resume`",
    )
    postgresql: DcsPostgresql = DcsPostgresql()


def unsupported(dcs: Dcs) -> tuple[tuple[str, str], ...]:
    """(key, what was found and expected) of what a cluster cannot run with yet."""
    found: list[tuple[str, str]] = []
    if dcs.synchronous_mode == "off":
        text = "found off, expected on: asynchronous replication is not supported yet"
        found.append(("synchronous_mode", text))
    return tuple(found)


def document(dcs: Dcs) -> str:
    """The JSON that is stored in the DCS: what was given, under Patroni's names, no defaults."""
    content: dict[str, Any] = {name: _plain(getattr(dcs, name)) for name in _given(dcs)}
    if "synchronous_mode" in content:
        content["synchronous_mode"] = {"on": True, "off": False}.get(
            dcs.synchronous_mode, dcs.synchronous_mode
        )
    if "postgresql" in content:
        ours = dcs.postgresql
        content["postgresql"] = {name: _plain(getattr(ours, name)) for name in _given(ours)}
    return json.dumps(content, indent=2, ensure_ascii=False)


def _given(section: Section) -> list[str]:
    return [name for name in type(section).model_fields if name in section.model_fields_set]


def _plain(value: object) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case tuple():
            return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case Mapping():
            return {k: _number_or_text(v) for k, v in value.items()}  # pyright: ignore
        case _:
            return value


def _number_or_text(value: object) -> Any:
    """Numbers go back to what they were in the file."""
    if not isinstance(value, str):
        return _plain(value)
    return int(value) if _WHOLE_NUMBER.fullmatch(value) else value
