"""PostgreSQL's configuration files as text, and the one way in which files are written.

Layout: `postgresql.conf` is ours. It holds our defaults, includes `postgresql.base.conf` (the
original, renamed once) or a checked copy of the operator's `custom_conf`, then holds the static
parameters, then includes `pgregent.role.conf`, which holds all that changes while the server runs.
"""

import contextlib
import errno
import os
import pwd
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgregent.core.errors import Bug, Refused

POSTGRESQL_CONF = "postgresql.conf"
BASE_CONF = "postgresql.base.conf"
CUSTOM_CONF = "postgresql.custom.conf"
ROLE_CONF = "pgregent.role.conf"
AUTO_CONF = "postgresql.auto.conf"
HBA_CONF = "pg_hba.conf"
IDENT_CONF = "pg_ident.conf"
HEADER = "# Written by pgregent; edits are overwritten.\n"
PLACEHOLDER_NAMES = 'ANY 1 ("pgregent_placeholder")'
NAME_BYTES_MAX = 63

ROLE_PARAMETERS = frozenset(
    {
        "primary_conninfo",
        "primary_slot_name",
        "recovery_target_timeline",
        "restore_command",
        "synchronous_standby_names",
    }
)
# What ALTER SYSTEM must not override: who this server follows, who confirms its commits and what
# that is worth, what it does when it crashes or stops recovering, and where its agent finds it.
OWNED_PARAMETERS = ROLE_PARAMETERS | {
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "port",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "restart_after_crash",
    "synchronous_commit",
    "unix_socket_directories",
    "wal_log_hints",
}

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
_SETTING = re.compile(r"\s*([A-Za-z_][\w$.]*)\s*(?:=\s*|\s)(.*)")
_INCLUDE = re.compile(
    r"(\s*include(?:_if_exists|_dir)?(?:\s*=\s*|\s+))('(?:[^']|'')*'|[^\s'#]+)", re.IGNORECASE
)

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Owner:
    """The unprivileged user that PostgreSQL runs as when pgregent runs as root."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server to stream, clone or rewind from; `passfile` is an absolute path, mode 0600,
    `options` what else libpq is told (no secrets)."""

    host: str
    port: int
    user: str
    passfile: Path
    application_name: str
    options: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class PassEntry:
    """One line of a password file; "*" matches anything."""

    host: str
    port: str
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Role:
    """What `pgregent.role.conf` says. No `upstream`: streams from nobody (a primary, or sealed)."""

    upstream: Upstream | None = None
    slot: str = ""
    restore_command: str = ""
    synchronous_standby_names: str = ""


def conf_value(value: Value) -> str:
    """Render a parameter's value for postgresql.conf; strings are quoted and escaped."""
    match value:
        case bool():
            return "on" if value else "off"
        case int() | float():
            return repr(value)
        case str():
            if "\0" in value:
                raise Refused(f"a parameter's value contains a NUL byte: {value!r}; remove it")
            escaped = value.replace("\\", "\\\\").replace("'", "''")
            return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"


def conninfo(options: Mapping[str, str | int]) -> str:
    """Render a libpq connection string; every value is quoted."""
    return " ".join(f"{key}={_conninfo_value(str(value))}" for key, value in options.items())


def _conninfo_value(value: str) -> str:
    if "\0" in value:
        raise Refused(f"a connection option contains a NUL byte: {value!r}; remove it")
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def upstream_conninfo(upstream: Upstream) -> str:
    """The connection string of primary_conninfo: no password, dead peers are noticed in seconds."""
    return conninfo(
        {
            "host": upstream.host,
            "port": upstream.port,
            "user": upstream.user,
            "passfile": str(upstream.passfile),
            "dbname": "postgres",
            "application_name": _member_name(upstream.application_name),
            "connect_timeout": 3,
            "keepalives": 1,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": 5000,
            "sslmode": "prefer",
            **upstream.options,
        }
    )


def _member_name(name: str) -> str:
    # PostgreSQL would cut or mangle the name silently, and it would then match nothing.
    if not name or len(name.encode()) > NAME_BYTES_MAX or not name.isascii() or name == "*":
        raise Refused(
            f"member name {name!r}: expected 1 to {NAME_BYTES_MAX} ASCII characters and not '*', "
            "because it becomes an application_name; rename the member"
        )
    return name


def quorum_names(k: int, names: Collection[str]) -> str:
    """`synchronous_standby_names` for "any `k` (1..len) of `names`", in a stable order."""
    if not 1 <= k <= len(set(names)):
        raise Bug(f"ANY {k} of {sorted(names)}")
    quoted = (_member_name(name).replace('"', '""') for name in sorted(set(names)))
    return f"ANY {k} (" + ", ".join(f'"{name}"' for name in quoted) + ")"


def postgresql_conf(
    parameters: Mapping[str, Value],
    *,
    defaults: Mapping[str, Value] | None = None,
    include: str = BASE_CONF,
) -> str:
    """The text of postgresql.conf: `defaults`, the file `include`, then static `parameters`."""
    changing = ROLE_PARAMETERS & {name.lower() for name in parameters}
    if changing:
        raise Bug(f"{sorted(changing)} belong to {ROLE_CONF}")
    return (
        HEADER
        + settings(defaults or {})
        + f"include {conf_value(include)}\n"
        + settings(parameters)
        + f"include {conf_value(ROLE_CONF)}\n"
    )


def settings(parameters: Mapping[str, Value]) -> str:
    """Lines of a configuration file."""
    return "".join(_setting(name, parameters[name]) for name in sorted(parameters))


def custom_conf(path: Path) -> bytes:
    """The content of the operator's file, for a copy elsewhere: absolute paths name what it
    includes. Raises Refused when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise refusal(error, f"postgresql.custom_conf: cannot read {path}") from error

    def absolute(line: re.Match[str]) -> str:
        named = line[2].removeprefix("'").removesuffix("'").replace("''", "'")
        return line[1] + conf_value(str(path.parent / named))

    lines = [
        _INCLUDE.sub(absolute, line, count=1) if _INCLUDE.match(line) else line
        for line in text.splitlines(keepends=True)
    ]
    return "".join(lines).encode("utf-8", "surrogateescape")


def role_conf(role: Role) -> str:
    """The text of pgregent.role.conf; it names every role parameter, so nothing shines through."""
    upstream = "" if role.upstream is None else upstream_conninfo(role.upstream)
    return HEADER + "".join(
        (
            _setting("primary_conninfo", upstream),
            _setting("primary_slot_name", role.slot),
            _setting("restore_command", role.restore_command),
            _setting("recovery_target_timeline", "latest"),
            _setting("synchronous_standby_names", role.synchronous_standby_names),
        )
    )


def _setting(name: str, value: Value) -> str:
    if not _PARAMETER.fullmatch(name):
        raise Refused(f"{name!r} is not a parameter name; expected letters, digits and '_'")
    return f"{name} = {conf_value(value)}\n"


def hba_name(name: str) -> str:
    """A database or role name for pg_hba.conf that is never taken for a keyword."""
    return '"' + name.replace('"', '""') + '"'


_HBA_FIELD = re.compile(r'#.*|(?:"[^"]*"|[^\s"#])+')


def closed_hba(lines: Iterable[str], *roles: str) -> tuple[str, ...]:
    """The records of pg_hba.conf by which replication and these roles get in, and nobody else.

    What names a group, a file or a pattern of users stays as it is: the roles may be in it.
    """
    lines = [record for line in lines for record in _without_replication(line)]
    kept: list[str] = []
    for line in lines:
        words = [word for word in _HBA_FIELD.findall(line) if not word.startswith("#")]
        if len(words) < 4:
            kept.append(line)  # A comment or an include; or PostgreSQL will say what is wrong.
            continue
        database, user = words[1], words[2]
        named = user.split(",")
        if "replication" in database.split(",") or any(
            name.startswith(("+", "@", "/")) for name in named
        ):
            kept.append(line)
        elif admitted := [r for r in roles if {"all", r, hba_name(r)} & set(named)]:
            users = ",".join(hba_name(role) for role in dict.fromkeys(admitted))
            kept.append(" ".join((*words[:2], users, *words[3:])))
    return tuple(kept)


def _without_replication(line: str) -> tuple[str, ...]:
    """The record as one for replication and one for the databases that it names beside that."""
    words: list[str] = [w for w in _HBA_FIELD.findall(line) if not w.startswith("#")]
    databases = words[1].split(",") if len(words) >= 4 else []
    others = ",".join(name for name in databases if name != "replication")
    if "replication" not in databases or not others:
        return (line,)
    return tuple(" ".join((words[0], name, *words[2:])) for name in ("replication", others))


def lines_conf(lines: Iterable[str]) -> str:
    """The text of pg_hba.conf or pg_ident.conf with the given records."""
    records = tuple(lines)
    for record in records:
        if "\n" in record or "\r" in record or "\0" in record:
            raise Refused(f"one record per line expected, found {record!r}")
    return HEADER + "".join(f"{record}\n" for record in records)


def pass_file(entries: Iterable[PassEntry]) -> str:
    """The text of a password file (any database)."""
    return "".join(
        ":".join((_pass_field(e.host), e.port, "*", _pass_field(e.user), _pass_field(e.password)))
        + "\n"
        for e in entries
    )


def _pass_field(value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise Refused("a password, user or host contains a line break; choose another one")
    return value.replace("\\", "\\\\").replace(":", "\\:")


def refusal(error: OSError, doing: str) -> Refused:
    """What the operator can do about `error`, which happened while `doing` something."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            hint = "the disk is full: free some space and try again"
        case errno.EACCES | errno.EPERM:
            hint = f"user {_user_name(os.geteuid())} may not: check the owner and the mode"
        case errno.EROFS:
            hint = "the file system is read-only: mount it writable"
        case _:
            hint = "check the path"
    return Refused(f"{doing}: {error.strerror or error}; {hint}")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def fsync_dir(path: Path) -> None:
    """Make renames, creations and removals in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(
    path: Path, content: str | bytes, owner: Owner | None = None, *, durably: bool = True
) -> None:
    """Replace `path` atomically, mode 0600. Raises Refused and leaves the old one.

    Not `durably`: for what is written anew at every start, where a sync would only cost time.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.pgregent")
    try:
        # O_EXCL on a name just removed: root must not follow a link that another user planted.
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            if owner is not None:
                os.fchown(fd, owner.uid, owner.gid)
            file.write(data)
            file.flush()
            if durably:
                os.fsync(fd)
        os.replace(temporary, path)
        if durably:
            fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise refusal(error, f"cannot write {path}") from error


def remove_file(path: Path) -> None:
    """Remove `path` durably; absent is fine. Raises Refused."""
    try:
        path.unlink(missing_ok=True)
        fsync_dir(path.parent)
    except OSError as error:
        raise refusal(error, f"cannot remove {path}") from error


def keep_base(conf_dir: Path, data_dir: Path, owner: Owner | None = None) -> None:
    """Rename the original postgresql.conf to postgresql.base.conf, once; where there is none, the
    data directory's serves. Raises Refused."""
    base, original = conf_dir / BASE_CONF, conf_dir / POSTGRESQL_CONF
    if base.exists():
        return
    if not original.exists():
        before = data_dir / BASE_CONF
        none = b"# There was no postgresql.conf when pgregent took over.\n"
        write_file(base, before.read_bytes() if before.exists() else none, owner)
        return
    _set_aside(original, base)


def keep_access_files(conf_dir: Path) -> None:
    """Rename pg_hba.conf and pg_ident.conf that are not ours, once. Raises Refused."""
    for name in (HBA_CONF, IDENT_CONF):
        original = conf_dir / name
        base = original.with_suffix(".base.conf")
        if not original.exists() or base.exists():
            continue
        if not original.read_bytes().startswith(HEADER.encode()):
            _set_aside(original, base)


def _set_aside(original: Path, base: Path) -> None:
    try:
        original.rename(base)
        fsync_dir(base.parent)
    except OSError as error:
        raise refusal(error, f"cannot rename {original} to {base.name}") from error


def set_standby_signal(data_dir: Path, present: bool, owner: Owner | None = None) -> None:
    """Make the next start a standby's (`present`) or a primary's. Raises Refused."""
    # A recovery.signal left alone would promote the server to a timeline of its own choice.
    remove_file(data_dir / "recovery.signal")
    if present:
        write_file(data_dir / "standby.signal", b"", owner)
    else:
        remove_file(data_dir / "standby.signal")


def strip_auto_conf(
    data_dir: Path,
    owner: Owner | None = None,
    owned: Collection[str] = OWNED_PARAMETERS,
) -> tuple[tuple[str, str], ...]:
    """Remove `owned` parameters from postgresql.auto.conf; returns (name, raw value) of each.

    Raises Refused when the file can be read or written no more.
    """
    path = data_dir / AUTO_CONF
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(keepends=True)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise refusal(error, f"cannot read {path}") from error
    kept: list[str] = []
    stripped: list[tuple[str, str]] = []
    for line in lines:
        found = _SETTING.fullmatch(line.rstrip("\r\n"))
        if found and found[1].lower() in owned:
            stripped.append((found[1].lower(), found[2].strip()))
        else:
            kept.append(line)
    if stripped:
        write_file(path, "".join(kept).encode("utf-8", "surrogateescape"), owner)
    return tuple(stripped)
