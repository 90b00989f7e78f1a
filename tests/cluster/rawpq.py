"""libpq with deadlines. It never sends a cancel request: that would release a waiting commit."""

import select
import time
from collections.abc import Sequence

import psycopg
from psycopg import pq

_READY = pq.PollingStatus.OK
_FAILED = pq.PollingStatus.FAILED
_TUPLES = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class DefiniteError(Exception):
    """The server answered with an error and the session lives, or nothing was sent."""


class InDoubtError(Exception):
    """No answer, a broken session, or a warning that the commit was not replicated."""


class Session:
    """One connection. Every call is bounded; on any InDoubtError the caller closes it."""

    def __init__(self, conninfo: str, timeout: float) -> None:
        self._warnings: list[str] = []
        self._conn = pq.PGconn.connect_start(conninfo.encode())
        self._conn.notice_handler = self._on_notice
        deadline = time.monotonic() + timeout
        started = self._conn.status != pq.ConnStatus.BAD
        status = pq.PollingStatus.WRITING if started else _FAILED
        while status not in (_READY, _FAILED):
            want = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
            if not self._wait(want, deadline):
                self.close()
                raise DefiniteError(f"no connection within {timeout:g} s")
            status = self._conn.connect_poll()
        if status == _FAILED:
            message = self._message()
            self.close()
            raise DefiniteError(message)
        self._conn.nonblocking = 1

    def _on_notice(self, result: pq.abc.PGresult) -> None:
        if (result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) or b"") == b"WARNING":
            text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
            self._warnings.append(text.decode(errors="replace"))

    def _message(self) -> str:
        return self._conn.error_message.decode(errors="replace").strip()

    def _wait(self, events: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._conn.socket, events)
        left_ms = max(0.0, deadline - time.monotonic()) * 1000
        return bool(poll.poll(left_ms))

    def execute(
        self, sql: str, values: Sequence[str] = (), timeout: float = 10.0
    ) -> list[tuple[str | None, ...]]:
        """Run one statement as its own transaction; return its rows as text."""
        self._warnings.clear()
        try:
            self._conn.send_query_params(sql.encode(), [v.encode() for v in values])
            return self.collect(timeout)
        except psycopg.Error as error:
            raise InDoubtError(str(error).strip()) from error

    def collect(self, timeout: float) -> list[tuple[str | None, ...]]:
        """Wait for the answer to what was sent; may be called again after it was late."""
        deadline = time.monotonic() + timeout
        while self._conn.flush():
            if not self._wait(select.POLLOUT | select.POLLIN, deadline):
                raise InDoubtError(f"not sent within {timeout:g} s")
            self._conn.consume_input()
        rows: list[tuple[str | None, ...]] = []
        failure = ""
        while True:
            while self._conn.is_busy():
                if not self._wait(select.POLLIN, deadline):
                    raise InDoubtError(f"no answer within {timeout:g} s")
                self._conn.consume_input()
            result = self._conn.get_result()
            if result is None:
                break
            if result.status in _TUPLES:
                rows = _rows(result)
            else:
                failure = result.error_message.decode(errors="replace").strip()
        if self._conn.status != pq.ConnStatus.OK:
            raise InDoubtError(failure or "the connection was lost")
        if failure:
            raise DefiniteError(failure)
        if self._warnings:
            raise InDoubtError(self._warnings[0])
        return rows

    def close(self) -> None:
        """Close the socket, whatever state it is in."""
        self._conn.finish()


def _rows(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    def text(row: int, column: int) -> str | None:
        value = result.get_value(row, column)
        return None if value is None else bytes(value).decode()

    return [
        tuple(text(row, column) for column in range(result.nfields))
        for row in range(result.ntuples)
    ]
