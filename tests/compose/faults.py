"""What happens to the container of a primary. Each fault returns what undoes it."""

from collections.abc import Callable

from tests.compose import figures
from tests.compose.engine import healthy, primary_of, run, until
from tests.compose.load import load

Undo = Callable[[], object]


def stop(node: str) -> Undo:
    run("docker", "stop", node)
    return lambda: run("docker", "start", node)


def kill(node: str) -> Undo:
    run("docker", "kill", node)
    return lambda: run("docker", "start", node)


def pause(node: str) -> Undo:
    run("docker", "pause", node)
    return lambda: run("docker", "unpause", node)


def disconnect(node: str) -> Undo:
    (network,) = run(
        "docker",
        "inspect",
        "-f",
        "{{range $k, $_ := .NetworkSettings.Networks}}{{$k}}{{end}}",
        node,
    ).split()
    run("docker", "network", "disconnect", network, node)
    return lambda: run("docker", "network", "connect", network, node)


def fail_over(nodes: tuple[str, ...], first_number: int, fault: Callable[[str], Undo]) -> None:
    """The primary fails while clients write: another takes over, nothing is lost, all heals."""
    primary = primary_of(nodes)
    with load(first_number=first_number) as running:
        running.strike()
        undo = fault(primary)
        try:
            running.resumes()
        finally:
            undo()
        until("the cluster is whole", lambda: healthy(nodes), 90.0)
    figures.note(f"docker {fault.__name__} of the primary, {len(nodes)} nodes", running)
    assert primary_of(nodes) != primary
