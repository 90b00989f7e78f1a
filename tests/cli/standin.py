"""Processes for `up` to supervise: `agent FILE` and `gate DIR` with their locks, REST and signals.

`python standin.py up DIR [options]` is `pgregent up --json` with these in place of the real ones.
An agent whose directory has a file `refuse` exits with code 2; `die` makes it exit at once.
"""

import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pgregent.cli.cluster_dir import open_cluster
from pgregent.config.load import load_config
from pgregent.config.lockfile import hold_lock

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}


def agent(file: Path) -> int:
    """Answer REST until a signal."""
    config = load_config(file)
    if (file.parent / "refuse").exists():
        print("pgregent: error: the data directory belongs to another cluster", file=sys.stderr)
        return 2
    if (file.parent / "die").exists():
        print("something broke", file=sys.stderr)
        return 7
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    state_dir = Path(f"{config.postgresql.data_dir}.pgregent")
    lock = hold_lock(state_dir / "agent.lock")
    status = {
        "v": 1,
        "name": config.name,
        "register": {"round": 1, "term": 1},
        "primary": "n1",
        "serving": False,
        "why": "no primary yet",
        "succession": "nobody could succeed now",
        "if_dies": {},
        "members": [{"name": config.name, "state": "running", "role": "replica"}],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(status).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", config.restapi.listen.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    event = {"v": 1, "ts": 1.0, "event": "hello", "member": config.name, "why": "it runs"}
    with (state_dir / "events.jsonl").open("a") as events:
        events.write(json.dumps(event) + "\n")
    signal.sigwait(SIGNALS)
    lock.release()
    return 0


def gate(directory: Path) -> int:
    """Hold the lock until a signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    lock = hold_lock(open_cluster(directory).gate_lock)
    signal.sigwait(SIGNALS)
    lock.release()
    return 0


def up(directory: Path, arguments: list[str]) -> int:
    """`pgregent up` with this file as the program."""
    from pgregent.cli import running
    from pgregent.cli.main import main

    running.run_cluster.__defaults__ = ((sys.executable, __file__),)
    main(["up", str(directory), "--json", *arguments], prog_name="pgregent")
    return 0


if __name__ == "__main__":
    match sys.argv[1]:
        case "agent":
            sys.exit(agent(Path(sys.argv[2])))
        case "gate":
            sys.exit(gate(Path(sys.argv[2])))
        case _:
            sys.exit(up(Path(sys.argv[2]), sys.argv[3:]))
