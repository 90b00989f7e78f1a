"""Puts one agent together from its configuration and runs it."""

import asyncio
import logging
import os
import pwd
import resource
import shlex
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import uvloop
from aiohttp import web

from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.adapters.postgres import tools
from pgregent.adapters.postgres.check import (
    check_configuration,
    check_data_dir,
    check_files,
    check_parameters,
)
from pgregent.adapters.postgres.guard_client import foreign_postmaster, guard_runs
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.adapters.postgres.render import custom_conf
from pgregent.adapters.postgres.server import LocalServer
from pgregent.adapters.postgres.sql import Credentials
from pgregent.agent.callbacks import Callbacks
from pgregent.agent.codec import decode
from pgregent.agent.connect import keys, open_dcs
from pgregent.agent.dynamic import DynamicConfig
from pgregent.agent.events import EventLog
from pgregent.agent.log import configure_log
from pgregent.agent.loop import Agent, Keys, api_address
from pgregent.agent.patroni_keys import patroni_keeper, refuse_beside_patroni
from pgregent.agent.patroni_word import Entries, word
from pgregent.agent.reload import START_TIMEOUT_MIN, Hooks, Reload
from pgregent.agent.store import Store
from pgregent.agent.taking import Taking
from pgregent.api import app
from pgregent.api import server as rest
from pgregent.api.access import Access
from pgregent.api.actions import Actions
from pgregent.api.cluster import Cluster
from pgregent.api.forward import Forward
from pgregent.api.maintenance import Maintenance
from pgregent.api.node import Node
from pgregent.api.operate import Operate
from pgregent.api.signed import SIGNED
from pgregent.api.signed_config import SignedConfig
from pgregent.api.tls import client_context, server_context
from pgregent.config import schema
from pgregent.config.dynamic import Dcs
from pgregent.config.load import Loaded
from pgregent.config.lockfile import hold_lock
from pgregent.config.schema import AgentConfig
from pgregent.config.slots import ignored_names
from pgregent.core.adoption import overtaken
from pgregent.core.effects import Announce
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Leave
from pgregent.core.types import Durable, Register, Settings, Stage
from pgregent.core.view import State
from pgregent.ports import dcs as port

log = logging.getLogger("pgregent")


class BoottimeClock:
    """See ports.clock.Clock."""

    def now(self) -> float:
        """See the port."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def epoch(self) -> float:
        """See the port."""
        return time.time()


def run_agent(loaded: Loaded, again: Callable[[], Loaded]) -> int:
    """Run until told to leave; returns the exit code (2: nothing was touched). `again` loads the
    configuration anew."""
    config = loaded.config
    configure_log(config.log)
    for warning in loaded.warnings:
        log.warning("%s", warning)
    _raise_file_limit()
    bin_dir = tools.find_bin_dir(config.postgresql.bin_dir)
    state_dir = config.postgresql.data_dir.with_name(f"{config.postgresql.data_dir.name}.pgregent")
    make_dir(state_dir)
    with ExitStack() as locks:
        locks.callback(hold_lock(state_dir / "agent.lock").release)
        folder = config.postgresql.config_dir
        if folder is not None and os.access(folder, os.W_OK | os.X_OK):
            # Another member's files there would say who confirms this one's commits.
            locks.callback(hold_lock(folder / "pgregent.lock").release)
        return _until_it_ends(config, state_dir, bin_dir, again)


def _until_it_ends(
    config: AgentConfig, state_dir: Path, bin_dir: Path, again: Callable[[], Loaded]
) -> int:
    try:
        return uvloop.run(_run(config, state_dir, bin_dir, again))
    except Unavailable as error:
        log.error("ended: %s", error)
        return 1


def _raise_file_limit() -> None:
    """Idle connections to the REST port must not take away those to PostgreSQL."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def custom_conf_of(config: AgentConfig) -> bytes | None:
    path = config.postgresql.custom_conf
    return custom_conf(path) if path else None


def server_of(
    config: AgentConfig, dynamic: Dcs, bin_dir: Path, custom: bytes | None
) -> ServerConfig:
    postgresql = config.postgresql
    auth = postgresql.authentication
    owner = tools.service_owner()
    return ServerConfig(
        name=config.name,
        data_dir=postgresql.data_dir,
        bin_dir=bin_dir,
        log_file=postgresql.data_dir.parent / "log" / "postgresql.log",
        listen_host=postgresql.listen.host,
        port=postgresql.listen.port,
        superuser=_credentials(auth.superuser),
        replication=_credentials(auth.replication),
        rewind=_credentials(auth.rewind or auth.superuser),
        owner=owner,
        user=pwd.getpwuid(owner.uid).pw_name if owner is not None else None,
        parameters=config.server_parameters(dynamic),
        initdb=config.bootstrap.initdb,
        post_bootstrap=tuple(shlex.split(config.bootstrap.post_bootstrap or "")),
        pg_hba=config.server_hba(dynamic),
        pg_ident=config.server_ident(dynamic),
        config_dir=postgresql.config_dir,
        custom_conf=custom,
        use_slots=dynamic.postgresql.use_slots,
        permanent_slots=frozenset(dynamic.slots),
        ignored_slots=ignored_names(dynamic.ignore_slots),
        basebackup=config.basebackup(dynamic),
        stop_timeout=config.stop_timeout(dynamic),
        pgpass=postgresql.pgpass,
        use_unix_socket=postgresql.use_unix_socket,
        start_timeout=max(START_TIMEOUT_MIN, dynamic.primary_start_timeout),
    )


def _credentials(role: schema.Credentials) -> Credentials:
    return Credentials(role.username, role.password.get_secret_value(), role.connection)


async def _prepare(
    server: LocalServer, callbacks: Callbacks, config: AgentConfig, dynamic: Dcs, *, files: bool
) -> Callable[[], Awaitable[None]]:
    """See agent.reload.Hooks."""
    custom = custom_conf_of(config) if files else server.config.custom_conf
    changed = server_of(config, dynamic, server.config.bin_dir, custom)
    await check_configuration(changed)
    # Some keys stay as they were until the agent starts anew.
    await check_files(server.config.changed_to(changed))
    reconfigure = partial(server.reconfigure, changed)
    return partial(callbacks.reconfigured, config.postgresql.callbacks, reconfigure)


def make_dir(directory: Path) -> None:
    """PostgreSQL's user has to pass through it, to its own password file, and see nothing else."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    except OSError as error:
        raise Refused(f"cannot create {directory}: {error.strerror}") from error


def settings_of(config: AgentConfig, dynamic: Dcs) -> Settings:
    own, count = config.pgregent, dynamic.synchronous_node_count
    address, api = config.postgresql.address, config.restapi.address
    return Settings(
        name=config.name,
        suspect_after=own.suspect_after,
        lease=own.lease,
        standby_grace=own.standby_grace,
        nodes_wanted_k=count,
        minimum_k=1 if dynamic.synchronous_mode_strict else 0,
        primary_start_timeout=max(START_TIMEOUT_MIN, dynamic.primary_start_timeout),
        slot_ttl=max(dynamic.ttl, dynamic.member_slots_ttl),
        paused=dynamic.pause,
        nofailover=config.tags.never_primary,
        nosync=config.tags.never_synchronous,
        noloadbalance=config.tags.noloadbalance,
        use_pg_rewind=dynamic.postgresql.use_pg_rewind,
        host=address.host,
        port=address.port,
        api_url=f"{config.restapi.scheme}://{api}/patroni",
        agent_pid=os.getpid(),
    )


async def _run(
    config: AgentConfig, state_dir: Path, bin_dir: Path, again: Callable[[], Loaded]
) -> int:
    store = Store(state_dir)
    durable = store.load(config.name)
    dcs = await open_dcs(config, config.name)
    try:
        in_hand = guard_runs(state_dir)
        entries = await refuse_beside_patroni(dcs, keys(config), in_hand=in_hand)
        shown = _register(entries, keys(config), durable)
        # What is in hand is for the agent to stop first.
        if shown is not None and shown.released and not in_hand:
            raise Refused(
                f"the DCS key {keys(config).register}: {shown.why}; `pgregent adopt` takes it over"
            )
        known = shown or durable.register
        told = word(entries, f"{config.namespace}/{config.scope}", leader_counts=False)
        if known is not None and not in_hand and (why := overtaken(known, told)):
            raise Refused(f"the DCS keys under {config.namespace}/{config.scope}: {why}")
        changes = DynamicConfig(
            dcs,
            f"{config.namespace}/{config.scope}/config",
            state_dir,
            config.bootstrap.dcs,
            lambda dynamic: check_configuration(server_of(config, dynamic, bin_dir, None)),
        )
        dynamic = await changes.load(lambda text: log.warning("%s", text))
        server_config = server_of(config, dynamic, bin_dir, custom_conf_of(config))
        settings = settings_of(config, dynamic)
        check_parameters(server_config.parameters)
        await check_files(server_config)
        if durable.stage is Stage.NONE:
            register = durable.register or shown
            system_id = register.system_id if register is not None else ""
            check_data_dir(server_config.data_dir, server_config.bin_dir, system_id)
        if shown is None:
            _refuse_foreign(server_config)
        if known is None and told.system_id:
            _refuse_to_create(server_config, told.system_id)
        log_dir = server_config.log_file.parent
        make_dir(log_dir)
        if (owner := server_config.owner) is not None:
            os.chown(log_dir, owner.uid, owner.gid)
        clock = BoottimeClock()
        now = clock.now()
        state = State.of_new_life(settings, durable, now, clock.epoch())
        await _serve(
            config,
            changes,
            state,
            store=store,
            server_config=server_config,
            dcs=dcs,
            again=again,
        )
    finally:
        await dcs.close()
    return 0


def _refuse_foreign(config: ServerConfig) -> None:
    """Which cluster a server that runs here is of is not known without the register."""
    postmaster = foreign_postmaster(config.data_dir, config.state_dir)
    if postmaster is not None:
        raise Unavailable(
            "dcs",
            f"it shows no register, and PostgreSQL runs in {config.data_dir} (process "
            f"{postmaster}), which pgregent did not start: stop it, or see `pgregent adopt --help`",
        )


def _refuse_to_create(config: ServerConfig, system_id: str) -> None:
    """A cluster where there is one."""
    if not (config.data_dir / "PG_VERSION").exists():
        raise Unavailable(
            "dcs",
            f"it shows no register, but in its key `initialize` a cluster of Patroni's, {system_id}"
            f", and there is none in {config.data_dir}: `pgregent adopt` takes it over, on its "
            "primary's host; for a new cluster choose another scope, or see `patronictl remove`",
        )


class _Told:
    """What happens, for people: in the log and in the file of events."""

    def __init__(self, name: str, file: Path, clock: BoottimeClock) -> None:
        self._name = name
        self._events = EventLog(file, name, clock.epoch)

    def announce(self, effect: Announce) -> None:
        log.info("%s: %s (term %d): %s", self._name, effect.event, effect.term, effect.why)
        self._events.write(effect)

    def set_aside(self, path: Path, size: int) -> None:
        log.info("set_aside: %s, %d bytes", path, size)
        self._events.set_aside(path, size)


async def _serve(
    config: AgentConfig,
    changes: DynamicConfig,
    state: State,
    *,
    store: Store,
    server_config: ServerConfig,
    dcs: port.Dcs,
    again: Callable[[], Loaded],
) -> None:
    clock = BoottimeClock()
    told = _Told(config.name, server_config.state_dir / "events.jsonl", clock)
    server = LocalServer(server_config, told.set_aside)
    agent = Agent(
        state,
        store=store,
        server=server,
        dcs=dcs,
        keys=keys(config),
        clock=clock,
        announce=told.announce,
    )
    key = derive_key(server_config.replication.password, config.scope)
    tls = client_context(config.restapi, config.ctl)
    channel = PeerChannel(config.name, key, agent.on_peer, tls=tls)
    known = {n: (a.host, a.port) for n, a in config.pgregent.peers.items() if n != config.name}
    agent.know_peers(known)

    def processes() -> Mapping[str, int | None]:
        guard, postmaster = server.processes()
        return {"agent": os.getpid(), "guard": guard, "postmaster": postmaster}

    node = Node(state, config.scope, clock.now, server.version)
    hosts = [host for host, _ in known.values()]
    access = Access(config.restapi, lambda: _member_hosts(agent, hosts), SIGNED)
    port_tls = server_context(config.restapi)
    taking = Taking(state, node, access, settings_of, port_tls, tls)
    taking.take(config, changes.in_force)
    callbacks = Callbacks(state, config.scope, config.postgresql.callbacks)
    hooks = Hooks(again, partial(_prepare, server, callbacks), taking.take, taking.pending)
    reload = Reload(config, changes.in_force, server, hooks)
    actions = Actions(state, agent.post, Forward(key, tls).switchover, reload.ask)
    operate = Operate(state, key, agent.post)
    maintenance = Maintenance(node, agent.post)
    keeper = patroni_keeper(dcs, keys(config), node, post=agent.post, announce=told.announce)
    signed_config = SignedConfig(key, changes, reload.file)
    routes = app.routes(
        node,
        processes,
        changes,
        actions,
        operate,
        maintenance=maintenance,
        signed_config=signed_config,
        cluster=Cluster(node, tls),
    )
    runner = rest.runner(rest.application([*channel.routes(), *routes], access))
    await runner.setup()
    await _listen(runner, config, port_tls)
    await channel.start()
    agent.peers = channel
    _handle_signals(agent, reload)
    watching = [
        asyncio.create_task(work)
        for work in (changes.watch(reload.change), reload.run(), callbacks.run())
    ]
    if keeper is not None:
        watching.append(asyncio.create_task(keeper.run()))
    try:
        await agent.run()
        await agent.farewell()
    finally:
        for task in watching:
            task.cancel()
        # What one of them still writes would come after what is removed now.
        await asyncio.wait(watching, timeout=0.5)
        if keeper is not None:
            await keeper.leave()
        await channel.close()
        await server.close()
        await runner.cleanup()
        await callbacks.close()


def _register(entries: Entries, keys: Keys, durable: Durable) -> Register | None:
    """The register, if the DCS shows it. Raises Refused for a corrupt one, unless there is a copy
    of it."""
    found = entries.get(keys.register)
    try:
        return decode(Register, found.value, f"the DCS key {keys.register}") if found else None
    except Refused:
        if durable.register is None:
            raise
        return None


async def _listen(runner: web.AppRunner, config: AgentConfig, tls: ssl.SSLContext | None) -> None:
    listen = config.restapi.listen
    try:
        await rest.listen(runner, listen.host, listen.port, tls)
    except OSError as error:
        raise Refused(f"restapi.listen: cannot listen on {listen}: {error.strerror}") from error


def _member_hosts(agent: Agent, known: Iterable[str]) -> list[str]:
    """Where all members that are known are: their PostgreSQL and their agents."""
    found = [agent.state.settings.host, *known]
    own = api_address(agent.state.settings.api_url)
    for record in agent.records().values():
        found.append(record.host)
        if (address := api_address(record.api_url)) is not None:
            found.append(address[0])
    return found + ([own[0]] if own else [])


def _handle_signals(agent: Agent, reload: Reload) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload.ask)
    loop.add_signal_handler(signal.SIGTERM, lambda: agent.post(Leave(cluster=False)))
    loop.add_signal_handler(signal.SIGINT, lambda: agent.post(Leave(cluster=True)))
    loop.add_signal_handler(signal.SIGUSR1, agent.detach)
