"""What an agent refuses to touch: looked at before anything is changed."""

import asyncio
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pgregent.adapters.postgres import tools, wal
from pgregent.adapters.postgres.render import Value, conf_value
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


async def check_configuration(bin_dir: Path, parameters: Mapping[str, Value]) -> None:
    """Raise Refused for what this PostgreSQL would not start with: unknown parameters, values that
    they cannot have. Asks its own parser; says nothing where that cannot be asked."""
    try:
        complaint = await _parsed(bin_dir, parameters)
    except OSError:
        return
    if complaint:
        raise Refused(f"postgresql.parameters: PostgreSQL would not start: {complaint}")


async def _parsed(bin_dir: Path, parameters: Mapping[str, Value]) -> str:
    """What its parser complains of; empty if it takes them, or has not answered in time."""
    with tempfile.TemporaryDirectory(prefix="pgregent-check-") as folder:
        file = Path(folder) / "postgresql.conf"
        lines = (f"{name} = {conf_value(value)}\n" for name, value in parameters.items())
        # A file and not arguments, which everybody on the machine could read.
        file.write_text("".join(lines), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(str(bin_dir / "postgres"), "-C", "port", "-D", folder, f"--config-file={file}"),
            env=wal.tool_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(CHECK_S):
                _, said = await process.communicate()
        except TimeoutError:
            return ""
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return _complaint(said) if process.returncode else ""


def _complaint(said: bytes) -> str:
    """Without the names of places that nobody knows, and without what follows from it."""
    lines = [line.partition(": ")[2].strip() for line in said.decode(errors="replace").splitlines()]
    found = [re.sub(r' in file "[^"]*".*$', "", line) for line in lines]
    noise = re.compile(r"contains errors|skipping missing")
    kept = [line for line in found if line and not noise.search(line)]
    return "; ".join(kept[:5]) or "its parser refuses the values"
