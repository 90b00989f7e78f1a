"""cluster.json and the choice of the directory."""

import json
from pathlib import Path

import pytest

from pgregent.cli.cluster_dir import ClusterDir, open_cluster, resolve_dir, save_cluster, write_file
from pgregent.core.errors import Refused


def test_a_saved_cluster_is_read_back(cluster: ClusterDir) -> None:
    cluster.path.mkdir()
    save_cluster(cluster)
    assert open_cluster(cluster.path) == cluster


def test_another_format_is_refused(cluster: ClusterDir) -> None:
    cluster.path.mkdir()
    save_cluster(cluster)
    file = cluster.path / "cluster.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    with pytest.raises(Refused, match=r"format 2, this pgregent knows format 1"):
        open_cluster(cluster.path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', '{"format": 1, "nodes": 5}'])
def test_a_damaged_cluster_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(Refused, match="damaged"):
        open_cluster(tmp_path)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"does not exist.*pgregent up"):
        open_cluster(tmp_path / "absent")
    with pytest.raises(Refused, match=r"no cluster\.json"):
        open_cluster(tmp_path)


def test_the_directory_comes_from_argument_option_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGREGENT_DIR", raising=False)
    assert resolve_dir(None, None) == tmp_path / "pgregent-data"
    monkeypatch.setenv("PGREGENT_DIR", str(tmp_path / "env"))
    assert resolve_dir(None, None) == tmp_path / "env"
    assert resolve_dir(None, "option") == tmp_path / "option"
    assert resolve_dir("argument", None) == tmp_path / "argument"
    with pytest.raises(Refused, match="two directories"):
        resolve_dir("argument", "option")


def test_an_unknown_node_gets_a_suggestion(cluster: ClusterDir) -> None:
    with pytest.raises(Refused, match=r'no node \'n11\', only n1, n2, n3; did you mean "n1"'):
        cluster.node("n11")


def test_connection_strings_hold_no_password_unless_asked(cluster: ClusterDir) -> None:
    secrets = cluster.path / "secrets"
    secrets.mkdir(parents=True)
    write_file(cluster.secret_file("app"), "hush\n")
    assert "hush" not in cluster.dsn() + cluster.dsn(read_only=True)
    assert f"port={cluster.entry_port} " in cluster.dsn()
    assert f"port={cluster.entry_ro_port} " in cluster.dsn(read_only=True)
    assert cluster.dsn(show_password=True).endswith("password=hush")
    assert cluster.secret_file("app").stat().st_mode & 0o777 == 0o600


def test_a_path_with_a_space_is_quoted(cluster: ClusterDir) -> None:
    from dataclasses import replace

    from psycopg.conninfo import conninfo_to_dict

    odd = replace(cluster, path=Path("/srv/it's my/dir"))
    assert conninfo_to_dict(odd.dsn())["passfile"] == "/srv/it's my/dir/secrets/app.pgpass"
