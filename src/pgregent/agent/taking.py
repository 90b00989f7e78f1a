"""Gives a configuration that was read again to those who use it while the agent runs."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pgregent.agent.log import configure_log
from pgregent.api.access import Access
from pgregent.api.node import Node
from pgregent.api.tls import load_certificate
from pgregent.config.dynamic import Dcs
from pgregent.config.schema import AgentConfig
from pgregent.core.types import Settings
from pgregent.core.view import State

_REST = (
    *("authentication", "allowlist", "allowlist_include_members"),
    *("http_extra_headers", "https_extra_headers", "server_tokens"),
)
"""Of `restapi`; how the port is served stays as it was when it was opened."""


@dataclass(frozen=True, slots=True)
class Taking:
    """The core finds other `settings` at its next event."""

    state: State
    node: Node
    access: Access
    settings: Callable[[AgentConfig, Dcs], Settings]
    server_tls: ssl.SSLContext | None
    client_tls: ssl.SSLContext | None

    def take(self, config: AgentConfig, dynamic: Dcs) -> None:
        """Raises Refused, with nothing taken, for a certificate or log that cannot be used."""
        self._load_certificates(config)
        configure_log(config.log)
        old = self.state.settings
        self.state.settings = replace(
            self.settings(config, dynamic),
            name=old.name,
            host=old.host,
            port=old.port,
            api_url=old.api_url,
        )
        self.node.synchronous_mode = dynamic.synchronous_mode
        self.node.maximum_lag = dynamic.maximum_lag_on_failover
        self.node.tags = config.tags.all
        changed = {key: getattr(config.restapi, key) for key in _REST}
        self.access.rest = self.access.rest.model_copy(update=changed)

    def _load_certificates(self, config: AgentConfig) -> None:
        """They may have been renewed under their old names."""
        rest = self.access.rest
        if self.server_tls is not None:
            load_certificate(self.server_tls, rest, "restapi")
        if self.client_tls is not None and config.ctl.certfile is None:
            load_certificate(self.client_tls, rest, "restapi")

    def pending(self, found: Mapping[str, tuple[str, str]]) -> None:
        """What waits for a start of PostgreSQL."""
        self.node.pending_restart = found
        self.node.pending_since = self.state.server_started_at
