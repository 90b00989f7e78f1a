"""What an agent refuses to touch: looked at before anything is changed."""

from collections.abc import Mapping
from pathlib import Path

from pgregent.adapters.postgres import tools, wal
from pgregent.core.errors import Refused

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
