"""The files in contrib/ as a test runs them: for loopback, and otherwise as an operator copies them."""

from __future__ import annotations

from tests.e2e.processes import ROOT, GaveUp

CONTRIB = ROOT / "contrib"


def adapted(name: str, *replacements: tuple[str, str]) -> str:
    """The text of a file.

    :param name: below contrib/.
    :param replacements: what is written, which must stand there exactly once, and what is to be there instead.
    :raises GaveUp: it isn't so.
    """
    text = (CONTRIB / name).read_text(encoding="utf-8")
    for written, here in replacements:
        if text.count(written) != 1:
            raise GaveUp(f"{name}: {written!r} stands {text.count(written)} times in it")
        text = text.replace(written, here)
    return text
