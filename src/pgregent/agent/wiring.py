"""Puts one agent together from its configuration and runs it."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import uvloop
from aiohttp import web

from pgregent.adapters.dcs.local import LocalDcs
from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.adapters.postgres import tools
from pgregent.adapters.postgres.check import check_data_dir, check_parameters
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.adapters.postgres.server import LocalServer
from pgregent.adapters.postgres.sql import Credentials
from pgregent.agent.codec import decode
from pgregent.agent.events import EventLog
from pgregent.agent.loop import Agent, Keys
from pgregent.agent.store import Store
from pgregent.api import status
from pgregent.config.lockfile import hold_lock
from pgregent.config.schema import AgentConfig
from pgregent.core.effects import Announce, Leave
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.types import Register, Settings, Stage
from pgregent.core.view import State

log = logging.getLogger("pgregent")


class BoottimeClock:
    """See ports.clock.Clock."""

    def now(self) -> float:
        """See the port."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def epoch(self) -> float:
        """See the port."""
        return time.time()


def run_agent(config: AgentConfig, config_path: Path) -> int:
    """Run until told to leave; returns the exit code (2: nothing was touched)."""
    _configure_log(config.log.level)
    server = _server_config(config)
    _make_state_dir(server)
    lock = hold_lock(server.state_dir / "agent.lock")
    try:
        return uvloop.run(_run(config, server))
    except Unavailable as error:
        log.error("ended: %s (configured by %s)", error, config_path)
        return 1
    finally:
        lock.release()


def _configure_log(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )


def _server_config(config: AgentConfig) -> ServerConfig:
    postgresql = config.postgresql
    auth = postgresql.authentication
    owner = tools.service_owner()
    bin_dir = tools.find_bin_dir(postgresql.bin_dir)
    dynamic = config.bootstrap.dcs.postgresql
    log_dir = postgresql.data_dir.parent / "log"
    user = None
    if owner is not None:
        import pwd

        user = pwd.getpwuid(owner.uid).pw_name
    return ServerConfig(
        name=config.name,
        data_dir=postgresql.data_dir,
        bin_dir=bin_dir,
        log_file=log_dir / "postgresql.log",
        listen_host=postgresql.listen.host,
        port=postgresql.listen.port,
        superuser=Credentials(auth.superuser.username, auth.superuser.password.get_secret_value()),
        replication=Credentials(
            auth.replication.username, auth.replication.password.get_secret_value()
        ),
        owner=owner,
        user=user,
        parameters={**dynamic.parameters, **postgresql.parameters},
        initdb=config.bootstrap.initdb,
        pg_hba=postgresql.pg_hba or dynamic.pg_hba or config.bootstrap.pg_hba,
    )


def _make_state_dir(server: ServerConfig) -> None:
    """PostgreSQL's user has to pass through it, to its own password file, and see nothing else."""
    for directory in (server.state_dir, server.log_file.parent):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        except OSError as error:
            raise Refused(f"cannot create {directory}: {error.strerror}") from error
    if server.owner is not None:
        os.chown(server.log_file.parent, server.owner.uid, server.owner.gid)


def _settings(config: AgentConfig) -> Settings:
    dcs, own = config.bootstrap.dcs, config.pgregent
    if dcs.synchronous_mode == "off":
        raise Refused(
            "bootstrap.dcs.synchronous_mode: found off, expected on: asynchronous replication is "
            "not supported yet"
        )
    if dcs.synchronous_node_count > 1:
        raise Refused(
            f"bootstrap.dcs.synchronous_node_count: found {dcs.synchronous_node_count}, expected "
            "1: changing a rule that waits for two or more standbys safely is not supported yet"
        )
    address = config.postgresql.address
    api = config.restapi.address
    return Settings(
        name=config.name,
        suspect_after=own.suspect_after,
        lease=own.lease,
        standby_grace=own.standby_grace,
        nodes_wanted_k=dcs.synchronous_node_count,
        minimum_k=dcs.synchronous_node_count if dcs.synchronous_mode_strict else 0,
        primary_start_timeout=dcs.primary_start_timeout,
        nofailover=config.tags.nofailover,
        nosync=config.tags.nosync,
        noloadbalance=config.tags.noloadbalance,
        use_pg_rewind=dcs.postgresql.use_pg_rewind,
        host=address.host,
        port=address.port,
        api_url=f"http://{api}/patroni",
        agent_pid=os.getpid(),
    )


async def _run(config: AgentConfig, server_config: ServerConfig) -> int:
    clock = BoottimeClock()
    events = EventLog(server_config.state_dir / "events.jsonl", config.name, clock.epoch)
    store = Store(server_config.state_dir)
    check_parameters(server_config.parameters)
    durable = store.load(config.name)
    dcs = await LocalDcs.open(config.local.path)
    keys = Keys(f"{config.namespace}/{config.scope}/pgregent")
    if durable.stage is Stage.NONE:
        register = durable.register or await _register(dcs, keys)
        system_id = register.system_id if register is not None else ""
        check_data_dir(server_config.data_dir, server_config.bin_dir, system_id)
    now = clock.now()
    state = State(_settings(config), durable, started_at=now, now=now)
    # Numbered on from any earlier life of this agent, so that an older record is never the newest.
    state.beat = int(clock.epoch() * 1000)

    def announce(effect: Announce) -> None:
        log.info("%s (term %d): %s", effect.event, effect.term, effect.why)
        events.write(effect)

    def set_aside(path: Path, size: int) -> None:
        log.info("set_aside: %s, %d bytes", path, size)
        events.set_aside(path, size)

    server = LocalServer(server_config, set_aside)
    agent = Agent(
        state, store=store, server=server, dcs=dcs, keys=keys, clock=clock, announce=announce
    )
    secret = server_config.replication.password
    channel = PeerChannel(config.name, derive_key(secret, config.scope), agent.on_peer)

    def processes() -> Mapping[str, int | None]:
        guard, postmaster = server.processes()
        return {"agent": os.getpid(), "guard": guard, "postmaster": postmaster}

    app = web.Application()
    app.add_routes([*channel.routes(), *status.routes(state, config.scope, processes)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await _listen(runner, config)
    await channel.start()
    agent.peers = channel
    _handle_signals(agent)
    try:
        await agent.run()
        await agent.farewell()
    finally:
        await channel.close()
        await server.close()
        await dcs.close()
        await runner.cleanup()
    return 0


async def _register(dcs: LocalDcs, keys: Keys) -> Register | None:
    """The register, if the DCS answers now."""
    try:
        found = (await dcs.read(keys.register)).get(keys.register)
    except Unavailable:
        return None
    return decode(Register, found.value, f"the DCS key {keys.register}") if found else None


async def _listen(runner: web.AppRunner, config: AgentConfig) -> None:
    listen = config.restapi.listen
    try:
        await web.TCPSite(runner, listen.host, listen.port, reuse_address=True).start()
    except OSError as error:
        raise Refused(f"restapi.listen: cannot listen on {listen}: {error.strerror}") from error


def _handle_signals(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: agent.post(Leave(cluster=False)))
    loop.add_signal_handler(signal.SIGINT, lambda: agent.post(Leave(cluster=True)))
    loop.add_signal_handler(signal.SIGUSR1, agent.detach)
