"""A certificate that nobody trusts, for a server on loopback."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from tests.e2e.processes import GaveUp, program, run


@frozen
class Certificate:
    """A certificate, signed by itself, and its key, as files.

    :ivar chain: the certificate.
    """

    chain: Path
    key: Path

    @classmethod
    def make(cls, directory: Path, name: str = "localhost") -> Certificate:
        """Make one for a month.

        :raises GaveUp: openssl doesn't.
        """
        made = cls(directory / "fullchain.pem", directory / "privkey.pem")
        options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
        argv: list[str | Path] = [
            program("openssl"),
            "req",
            "-x509",
            *options,
            *names,
            "-keyout",
            made.key,
            "-out",
            made.chain,
        ]
        finished = run(argv)
        if finished.status != 0:
            raise GaveUp(f"openssl: {finished.stderr}")
        return made
