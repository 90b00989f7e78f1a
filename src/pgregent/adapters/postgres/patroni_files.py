"""The configuration files of a data directory that Patroni wrote: kept when pgregent takes it over,
and how Patroni finds it again."""

import contextlib
from pathlib import Path

from pgregent.adapters.postgres import render, wal
from pgregent.adapters.postgres.layout import DEFAULT_HBA, ServerConfig

KEPT = "patroni"
"""The directory in the state directory that the copies are in."""
ACCESS = (render.HBA_CONF, render.IDENT_CONF)
RECORDED = "# Written when pgregent gave this data directory back to Patroni.\n"


def keep(config: ServerConfig) -> Path:
    """Copy those that pgregent will write over, each once; returns where to. Raises Refused."""
    to = config.state_dir / KEPT
    with _refusing(to):
        to.mkdir(mode=0o700, exist_ok=True)
    found = [config.conf_dir / name for name in (render.POSTGRESQL_CONF, *ACCESS)]
    for file in (*found, config.data_dir / render.AUTO_CONF):
        copy = to / file.name
        if copy.exists() or not file.exists():
            continue
        with _refusing(file):
            content = file.read_bytes()
        if not _is_ours(content):
            render.write_file(copy, content)
    return to


def give_back(config: ServerConfig, custom_conf: Path | None) -> None:
    """Leave nothing of pgregent in force, whoever starts the server next. No server may run where
    they are `in_force`; where they are not, nothing is done.

    Patroni writes postgresql.conf anew at every start. Who gets in is as it was before, or, where
    pgregent made the directory, as the configuration says. Raises Refused.
    """
    if not in_force(config):
        return
    kept, folder, owner = config.state_dir / KEPT, config.conf_dir, config.owner
    lines = {render.HBA_CONF: config.pg_hba or DEFAULT_HBA, render.IDENT_CONF: config.pg_ident}
    for name in ACCESS:
        if not _ours_is_at(folder / name):
            continue
        copy = kept / name
        own = RECORDED + render.lines_conf(lines[name]).removeprefix(render.HEADER)
        content = copy.read_bytes() if copy.exists() else own
        render.write_file(folder / name, content, owner)
    # With one above its newest real timeline a standby would not start.
    wal.remove_late_stubs(config.data_dir)
    include = custom_conf if custom_conf is not None else render.BASE_CONF
    text = f"{RECORDED}include {render.conf_value(str(include))}\n"
    render.write_file(config.conf_file, text, owner)
    for name in (render.ROLE_CONF, render.CUSTOM_CONF):
        render.remove_file(folder / name)


def in_force(config: ServerConfig) -> bool:
    """Whether the server's files are ours. Raises Refused."""
    return _ours_is_at(config.conf_file)


def _ours_is_at(file: Path) -> bool:
    with _refusing(file):
        return file.exists() and _is_ours(file.read_bytes())


def _is_ours(content: bytes) -> bool:
    return content.startswith(render.HEADER.encode())


@contextlib.contextmanager
def _refusing(path: Path):
    try:
        yield
    except OSError as error:
        raise render.refusal(error, f"cannot read or write {path}") from error
