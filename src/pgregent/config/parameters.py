"""PostgreSQL's parameters: which are pgregent's own, which the whole cluster's, and who wins."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from pgregent.config.section import mistake
from pgregent.config.types import PARAMETER, parameter_text

_NAME = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)?")
_WAL_SEGMENT_MB = 16
_WAL_SEGMENTS_MAX = 1 << 20
_UNSAFE_COPY = re.compile(r"(test|\[)\s+!\s+-[fe]\s+\S+\s*(\])?\s*&&\s*(/\S*/)?cp\s")

OWN = frozenset(
    {"cluster_name", "hba_file", "hot_standby", "ident_file", "listen_addresses", "port"}
    | {"logging_collector", "restart_after_crash", "wal_log_hints", "wal_retrieve_retry_interval"}
    | {"primary_conninfo", "primary_slot_name", "promote_trigger_file", "restore_command"}
    | {"recovery_end_command", "recovery_target", "recovery_target_action"}
    | {"recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name"}
    | {"recovery_target_time", "recovery_target_timeline", "recovery_target_xid"}
    | {"synchronous_standby_names"}
)
"""Set by pgregent: values that are given are dropped."""

_OWN_VALUES = {"hot_standby": "on", "wal_log_hints": "on", "restart_after_crash": "off"}

CLUSTER_WIDE = frozenset(
    {"hot_standby", "max_connections", "max_locks_per_transaction", "max_prepared_transactions"}
    | {"max_replication_slots", "max_wal_senders", "max_worker_processes"}
    | {"track_commit_timestamp", "wal_level", "wal_log_hints"}
)
"""The same on all members, so only the dynamic configuration sets them."""


def normalise(given: Any) -> Any:
    """Names in lower case, without nulls and pgregent's own; wal_keep_segments as wal_keep_size.

    What is no mapping is left for others to refuse. Raises a mistake at the key.
    """
    if not isinstance(given, Mapping):
        return given
    parameters: dict[Any, Any] = {}
    for key, value in cast(Mapping[Any, Any], given).items():
        name = key.lower() if isinstance(key, str) else key
        if value is None:
            continue
        if name in OWN:
            _expect_plain(key, value)
            continue
        if isinstance(name, str) and not _NAME.fullmatch(name):
            raise mistake(str(key), "a parameter's name: letters, digits, '_' and one '.'")
        if name in parameters:
            raise mistake(str(key), "each parameter once (their names have no case)")
        parameters[name] = value
    segments = parameters.pop("wal_keep_segments", None)
    if segments is not None:
        size = _segments_as_size(segments)
        parameters.setdefault("wal_keep_size", size)
    return parameters


Parameters = Annotated[Mapping[str, Annotated[str, PARAMETER]], BeforeValidator(normalise)]


def _expect_plain(key: str, value: object) -> None:
    try:
        parameter_text(value)
    except ValueError as error:
        raise mistake(key, str(error)) from None


def _segments_as_size(segments: object) -> str:
    text = str(segments)
    if isinstance(segments, bool) or not re.fullmatch(r"\d{1,9}", text):
        raise mistake("wal_keep_segments", "a whole number of segments")
    count = int(text)
    if count > _WAL_SEGMENTS_MAX:
        raise mistake("wal_keep_segments", f"at most {_WAL_SEGMENTS_MAX} segments")
    return f"{count * _WAL_SEGMENT_MB}MB"


def merge(dynamic: Mapping[str, str], local: Mapping[str, str]) -> dict[str, str]:
    """What a member's server is given: its own parameters win, except those of the cluster."""
    return {**dynamic, **{n: v for n, v in local.items() if n not in CLUSTER_WIDE}}


def parameter_warnings(given: Mapping[Any, Any], *, local: bool) -> list[tuple[str, str]]:
    """(name as given, what to know about it) of parameters that are not taken as they are.

    `local`: of one member's own configuration. `given` has passed `normalise`.
    """
    names = {str(name).lower() for name, value in given.items() if value is not None}
    found: list[tuple[str, str]] = []
    for key, value in given.items():
        name = str(key).lower()
        text = _warning(name, parameter_text(value), names, local) if value is not None else None
        if text is not None:
            found.append((str(key), text))
    return found


def _warning(name: str, value: str, names: set[str], local: bool) -> str | None:
    if name in OWN:
        wanted = _OWN_VALUES.get(name)
        return None if value.lower() == wanted else _own_warning(wanted)
    if local and name in CLUSTER_WIDE:
        return (
            "ignored: it has to be the same on all members; set it in bootstrap.dcs, or in the "
            "dynamic configuration of a cluster that exists"
        )
    match name:
        case "wal_keep_segments" if "wal_keep_size" in names:
            return "ignored: wal_keep_size is given too, and wins; remove it"
        case "wal_keep_segments":
            size = _segments_as_size(value)
            return (
                f"PostgreSQL 13 and newer do not know it: taken as wal_keep_size: {size}; "
                "write that instead"
            )
        case "unix_socket_directories" if any(
            not d.strip().startswith(("/", "@", "..")) for d in value.split(",") if d.strip()
        ):
            return (
                "in the data directory a socket keeps pg_rewind from working: it is put into "
                "<data_dir>.pgregent/socket instead"
            )
        case "password_encryption" if value.lower() == "md5":
            return "passwords are stored as md5 hashes, which are weak; write scram-sha-256"
        case "archive_command" if _UNSAFE_COPY.search(value):
            return (
                "`test ! -f … && cp` has two faults: after a failover, a history file that is in "
                "the archive already stops archiving for ever, and an interrupted cp leaves a "
                "short segment that blocks both archiving and recovery; "
                "use `pgregent wal-archive push --archive DIR %p`, which has neither"
            )
        case _:
            return None


def _own_warning(wanted: str | None) -> str:
    to = f" to {wanted}" if wanted else ""
    return f"ignored: pgregent sets it itself{to}; remove it"
