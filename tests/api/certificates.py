"""Certificates for tests: an authority, and what it signs."""

import subprocess
from pathlib import Path

_OPENSSL_S = 30


class Authority:
    """Makes certificates for 127.0.0.1 and localhost in a folder."""

    def __init__(self, place: Path, name: str = "authority") -> None:
        self._place, self._name = place, name
        self.file = place / f"{name}.pem"
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-keyout", f"{name}.key", "-out", self.file.name, "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE"),
        )

    def issue(self, name: str, names: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
        """Certificate and key."""
        certificate, key = self._place / f"{name}.pem", self._place / f"{name}.key"
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key.name, "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        (self._place / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", self.file.name),
            *("-CAkey", f"{self._name}.key", "-CAcreateserial", "-days", "2"),
            *("-extfile", f"{name}.ext", "-out", certificate.name),
        )
        return certificate, key

    def revoke(self, certificate: Path) -> tuple[Path, Path]:
        """The list of what is revoked, which is this one, as a file and as a folder."""
        folder, config = self._place / "revoked", self._place / "revoke.cnf"
        folder.mkdir()
        (self._place / "index.txt").touch()
        config.write_text(
            "[ca]\ndefault_ca = here\n[here]\ndatabase = index.txt\n"
            "default_md = sha256\ndefault_crl_days = 2\n"
        )
        own = ("-config", config.name, "-cert", self.file.name, "-keyfile", f"{self._name}.key")
        self._run("ca", *own, "-revoke", certificate.name)
        self._run("ca", *own, "-gencrl", "-out", "revoked/list.pem")
        self._run("rehash", folder.name)
        return folder / "list.pem", folder

    def encrypted(self, key: Path, password: str) -> Path:
        """The same key, which only this password opens."""
        new = key.with_suffix(".encrypted.key")
        self._run(
            "ec", "-in", key.name, "-aes256", "-out", new.name, "-passout", f"pass:{password}"
        )
        return new

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            ("openssl", *arguments),
            cwd=self._place,
            capture_output=True,
            timeout=_OPENSSL_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr.decode()
