"""What `adopt` and `release` share: a member's host, and its scope in the DCS."""

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pgregent.adapters.postgres import tools
from pgregent.adapters.postgres.check import check_configuration
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.agent.codec import decode, encode
from pgregent.agent.connect import keys, open_dcs
from pgregent.agent.dynamic import DynamicConfig
from pgregent.agent.loop import Keys
from pgregent.agent.patroni_word import Entries
from pgregent.agent.store import Store
from pgregent.agent.wiring import custom_conf_of, make_dir, server_of
from pgregent.config.dynamic import Dcs as Dynamic
from pgregent.config.lockfile import hold_lock, lock_holder
from pgregent.config.schema import AgentConfig
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.types import Register
from pgregent.ports.dcs import CasDone, Dcs


@dataclass(slots=True)
class Scope:
    """A member's configuration, and the keys under <namespace>/<scope> as they were read."""

    config: AgentConfig
    dcs: Dcs
    entries: Entries
    register: Register | None
    bin_dir: Path
    locks: ExitStack = field(default_factory=ExitStack)
    locked: bool = False

    @property
    def base(self) -> str:
        """Where Patroni's keys are."""
        return f"{self.config.namespace}/{self.config.scope}"

    @property
    def keys(self) -> Keys:
        """Where ours are."""
        return keys(self.config)

    @property
    def data_dir(self) -> Path:
        """This member's."""
        return self.config.postgresql.data_dir

    @property
    def state_dir(self) -> Path:
        """What its agent must not forget is in there."""
        return self.data_dir.with_name(f"{self.data_dir.name}.pgregent")

    @property
    def store(self) -> Store:
        """The same."""
        return Store(self.state_dir)

    @property
    def dynamic(self) -> DynamicConfig:
        """The dynamic configuration, with an agent's checks."""
        return DynamicConfig(
            self.dcs,
            f"{self.base}/config",
            self.state_dir,
            self.config.bootstrap.dcs,
            lambda dynamic: check_configuration(self.server(dynamic)),
        )

    def server(self, dynamic: Dynamic) -> ServerConfig:
        """What the agent would start its server with."""
        return server_of(self.config, dynamic, self.bin_dir, custom_conf_of(self.config))

    def lock(self) -> None:
        """Keep agents from starting here until the end; makes the state directory. Raises
        Refused."""
        if not self.locked:
            make_dir(self.state_dir)
            self.locks.callback(hold_lock(self.state_dir / "agent.lock").release)
            self.locked = True

    async def exchange(self, expected: int, register: Register) -> None:
        """Put it in place of the one with the seq `expected` (0: of none). Raises Unavailable."""
        key = self.keys.register
        version = self.entries[key].version if expected else 0
        result = await self.dcs.cas(key, version, encode(register))
        if not isinstance(result, CasDone):
            raise Unavailable(
                "dcs",
                f"{key}: whether it was written is not known, or it has changed: run it again",
            )


@asynccontextmanager
async def open_scope(config: AgentConfig) -> AsyncGenerator[Scope]:
    """Raises Refused where an agent runs here, Unavailable where the DCS does not answer."""
    if config.local is not None:
        raise Refused("local: Patroni has no such DCS; expected `zookeeper` or `etcd3`")
    bin_dir = tools.find_bin_dir(config.postgresql.bin_dir)
    dcs = await open_dcs(config, config.name)
    try:
        place = keys(config)
        entries = await dcs.read(f"{config.namespace}/{config.scope}")
        found = entries.get(place.register)
        where = f"the DCS key {place.register}"
        register = decode(Register, found.value, where) if found is not None else None
        scope = Scope(config, dcs, entries, register, bin_dir)
        with scope.locks:
            if scope.state_dir.is_dir():
                if (pid := lock_holder(scope.state_dir / "agent.lock")) is not None:
                    raise Refused(f"an agent runs here (process {pid}): stop it first")
                scope.lock()
            yield scope
    finally:
        await dcs.close()


@contextmanager
def named(scope: Scope) -> Generator[None]:
    """Have a refusal say what it is about."""
    try:
        yield
    except Refused as refused:
        where = f"{scope.config.name}, data in {scope.data_dir}, keys under {scope.base}"
        raise Refused(f"{where}: {refused}") from None


def member_config(file: str) -> AgentConfig:
    """A member's configuration. Raises Refused."""
    from pgregent.config.environment import forget_secrets
    from pgregent.config.load import load

    config = load(Path(file).absolute(), dict(os.environ)).config
    forget_secrets(os.environ)
    return config
