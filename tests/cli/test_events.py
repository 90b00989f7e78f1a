"""Following the agents' events, and printing them."""

import io
import json
from pathlib import Path

import pytest

from pgregent.cli.events import EventFile, JsonPrinter, PrettyPrinter, own_event


def line(number: int) -> str:
    return json.dumps({"v": 1, "event": "rule", "number": number}) + "\n"


def numbers(file: EventFile) -> list[int]:
    return [event["number"] for event in file.poll()]


def test_only_new_and_complete_lines_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1))
    file = EventFile(path, from_end=True)
    assert numbers(file) == []
    with path.open("a") as out:
        out.write(line(2) + line(3)[:5])
        out.flush()
        assert numbers(file) == [2]
        assert numbers(file) == []
        out.write(line(3)[5:])
        out.flush()
    assert numbers(file) == [3]


def test_a_file_that_appears_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    file = EventFile(path, from_end=True)
    assert numbers(file) == []
    path.write_text(line(1))
    assert numbers(file) == [1]


def test_a_file_that_is_replaced_or_cut_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line(1) + line(2))
    file = EventFile(path, from_end=False)
    assert numbers(file) == [1, 2]
    other = tmp_path / "other"
    other.write_text(line(3) + line(4) + line(5))
    other.rename(path)
    assert numbers(file) == [3, 4, 5]
    path.write_text(line(6))
    assert numbers(file) == [6]


def test_lines_that_are_no_events_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("{half\n[1]\n\n" + line(1))
    assert numbers(EventFile(path, from_end=False)) == [1]


def test_json_is_one_line_per_event() -> None:
    out = io.StringIO()
    printer = JsonPrinter(out)
    printer.show(own_event("progress", "zwei\nZeilen"))
    printer.show(own_event("started", "läuft", pid=5))
    events = [json.loads(text) for text in out.getvalue().splitlines()]
    assert [e["event"] for e in events] == ["progress", "started"]
    assert all(e["v"] == 1 and isinstance(e["ts"], float) for e in events)


def test_a_reader_that_went_away_does_not_raise() -> None:
    class Gone(io.StringIO):
        def write(self, s: str, /) -> int:
            raise BrokenPipeError

    printer = JsonPrinter(Gone())
    printer.show(own_event("progress", "unheard"))
    printer.show(own_event("progress", "unheard"))


def test_people_get_the_connection_strings_and_what_to_try(
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = [{"name": "n1", "api_url": "http://127.0.0.1:8008"}]
    ready = {"dsn": "host=h port=1", "dsn_ro": "host=h port=2", "directory": "/srv/x"}
    printer = PrettyPrinter()
    for member in ("n1", "n3"):
        printer.show(own_event("election", "n1 is gone", member=member))
    appointed = own_event("primary", "n2 was appointed [term 4]", member="n2", outage_ms=123)
    printer.show(appointed)
    printer.show(own_event("ready", "writes are accepted", members=members, **ready))
    printer.close()
    out = capsys.readouterr().out
    assert "n2 was appointed [term 4] (writes were out for 123 ms)" in out
    assert out.count("n1 is gone") == 1
    assert 'psql "host=h port=1"' in out
    assert "host=h port=2" in out
    assert "http://127.0.0.1:8008" in out
    assert " ps -q primary -d /srv/x)" in out
