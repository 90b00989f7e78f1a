"""The closed set of errors. Anything else that escapes is a defect."""


class Bug(Exception):
    """An invariant of pgregent itself does not hold."""


class Refused(Exception):
    """What was asked cannot be done; the message says what was found, expected, and what to do."""


class Unavailable(Exception):
    """A port did not do it, surely: `port` names it ("dcs", "postgres", "guard", "peer")."""

    def __init__(self, port: str, reason: str) -> None:
        super().__init__(f"{port}: {reason}")
        self.port = port
        self.reason = reason
