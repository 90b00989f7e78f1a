"""What an agent refuses to touch: looked at before anything is changed."""

import asyncio
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgregent.adapters.postgres import render, tools, wal
from pgregent.adapters.postgres.layout import CLUSTER_PARAMETERS, DEFAULT_HBA, ServerConfig
from pgregent.core.errors import Refused

CHECK_S = 5.0

EMPTY_PROMISES = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply"),
}
"""Parameters with which an acknowledgement would say nothing, and the values that are allowed."""


def check_parameters(parameters: Mapping[str, str]) -> None:
    """Raise Refused for a parameter that would make acknowledgements worthless."""
    for name, allowed in EMPTY_PROMISES.items():
        value = parameters.get(name, allowed[0]).lower()
        truth = "on" if value in ("true", "yes", "1") else value
        if truth not in allowed:
            raise Refused(
                f"postgresql.parameters.{name}: found {value}, expected {' or '.join(allowed)}: "
                "with it an acknowledged commit could be lost; remove it"
            )


def check_data_dir(data_dir: Path, bin_dir: Path, system_id: str) -> None:
    """Raise Refused unless `data_dir` is absent, empty, or one of this PostgreSQL's major version
    and of the cluster `system_id` ("": any)."""
    try:
        names = sorted(p.name for p in data_dir.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"data_dir {data_dir}: {error.strerror}; expected a directory") from error
    if not names:
        return
    if "PG_VERSION" not in names:
        raise Refused(
            f"data_dir {data_dir}: found {', '.join(names[:3])}, expected an empty directory or a "
            "PostgreSQL data directory: name another data_dir, or move these away"
        )
    found = (data_dir / "PG_VERSION").read_text().strip()
    have = tools.postgres_version(bin_dir)
    if found != str(have.major):
        raise Refused(
            f"data_dir {data_dir}: found PostgreSQL {found}'s files, expected {have.major}'s, as "
            f"{bin_dir} has {have}: name that version's bin_dir"
        )
    control = wal.controldata(bin_dir, data_dir)
    if control.wal_segment_size != wal.SEGMENT_SIZE:
        raise Refused(
            f"data_dir {data_dir}: found WAL segments of {control.wal_segment_size >> 20} MB, "
            f"expected {wal.SEGMENT_SIZE >> 20} MB: other sizes are not supported"
        )
    if system_id:
        identifier = str(control.system_identifier)
        if identifier != system_id:
            raise Refused(
                f"data_dir {data_dir}: found system identifier {identifier}, expected {system_id}: "
                "it belongs to another cluster; name the right data_dir, or move it away"
            )


async def check_configuration(config: ServerConfig) -> None:
    """Raise Refused for what this PostgreSQL would not start with, or must not: unknown parameters,
    values that they cannot have. Asks its own parser; says nothing where that cannot be asked."""
    check_parameters(config.parameters)
    parameters = render.settings({**CLUSTER_PARAMETERS, **config.parameters})
    said = await _parse(config, parameters.encode())
    if said.code:
        raise Refused(f"postgresql.parameters: PostgreSQL would not start: {_complaint(said.text)}")
    await check_files(config)


async def check_files(config: ServerConfig) -> None:
    """Raise Refused for a config_dir that nothing can be written to, a pg_hba that keeps the agent
    out, and for a custom_conf with which PostgreSQL would not start, or would elsewhere."""
    hba = render.closed_hba(config.pg_hba or DEFAULT_HBA, config.superuser.user)
    if config.use_unix_socket and not any(map(_admits_locally, hba)):
        raise Refused(
            f"pg_hba: found no line `local all {config.superuser.user} …`, expected one, because "
            "postgresql.use_unix_socket is true: the agent could not log in; add it"
        )
    folder = config.config_dir
    if folder is not None and not folder.is_dir():
        raise Refused(f"postgresql.config_dir {folder}: found no directory there: create it")
    if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
        raise Refused(f"postgresql.config_dir {folder}: the agent may not write: change its owner")
    if config.custom_conf is None:
        return
    said = await _parse(config, config.custom_conf)
    if said.code:
        # What is near a mistake may be a secret.
        shown = re.sub(r", near [^;]*", "", said.text)
        raise Refused(f"postgresql.custom_conf: PostgreSQL would not start: {shown}")
    # pg_rewind would recover what is there.
    if said.data_directory not in ("", os.path.realpath(config.data_dir)):
        raise Refused(
            f"postgresql.custom_conf: found data_directory {said.data_directory}, expected none, "
            f"or postgresql.data_dir, which is {config.data_dir}: remove it from that file"
        )


def _admits_locally(line: str) -> bool:
    """Whether a record of pg_hba.conf lets its user in through a socket."""
    kind, database, _, method = [*line.split(), *[""] * 4][:4]
    named = {name.strip('"') for name in database.split(",")}
    return kind == "local" and bool(named & {"all", "postgres"}) and method != "reject"


@dataclass(frozen=True, slots=True)
class _Said:
    """What PostgreSQL's parser found: `code` 0 is nothing wrong, or that it did not answer."""

    code: int = 0
    text: str = ""
    data_directory: str = ""
    """Where the server would run; empty if nothing says so."""


async def _parse(config: ServerConfig, content: bytes) -> _Said:
    try:
        return await _asked(config, content)
    except OSError:
        return _Said()


async def _asked(config: ServerConfig, content: bytes) -> _Said:
    with tempfile.TemporaryDirectory(prefix="pgregent-check-") as folder:
        file = Path(folder) / "postgresql.conf"
        # A file and not arguments, which everybody on the machine could read.
        file.write_bytes(content)
        argv = (str(config.bin_dir / "postgres"), "-C", "data_directory", "-D", folder)
        process = await asyncio.create_subprocess_exec(
            *(*argv, f"--config-file={file}"),
            env=wal.tool_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(CHECK_S):
                out, err = await process.communicate()
        except TimeoutError:
            return _Said()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        shown = err.decode(errors="replace").replace(f' in file "{file}"', "")
        place = os.path.realpath(out.decode(errors="replace").strip())
        return _Said(
            code=process.returncode or 0,
            text=_shown(shown),
            data_directory="" if place == os.path.realpath(folder) else place,
        )


def _shown(said: str) -> str:
    """In one line, without what follows from the rest."""
    lines = [line.partition(": ")[2].strip() for line in said.splitlines()]
    noise = re.compile(r"contains errors|skipping missing")
    kept = [line for line in lines if line and not noise.search(line)]
    return "; ".join(kept[:5]) or "its parser refuses the values"


def _complaint(text: str) -> str:
    """Without lines that nobody has written."""
    return re.sub(r" line \d+(, near [^;]*)?", "", text)
