"""One call on one link to etcd: its deadline, and what was known when it was made."""

from dataclasses import dataclass

from pgregent.adapters.dcs.etcd_link import Declined, Link, Message
from pgregent.adapters.dcs.etcd_versions import Moment
from pgregent.core.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Call:
    """One call's link, its deadline in time.monotonic() seconds, and when it was made."""

    link: Link
    deadline: float
    sent: Moment

    async def ask(self, path: str, message: Message, *, once: bool = False) -> Message:
        """Raises Unavailable and Unsure."""
        try:
            return await self.link.ask(path, message, self.deadline, once=once)
        except Declined as declined:
            raise Unavailable("dcs", str(declined)) from None
