"""The report: what was deleted and why, one JSON object a line, appended to a file of the operator's."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import frozen

from hmacfs.logs import FileSink
from hmacfs.storage.names import SlotPath


@frozen
class Deletion:
    """One file that is gone.

    :ivar time: when it was deleted, in seconds since the epoch.
    :ivar size: in bytes.
    :ivar uploaded: in seconds since the epoch.
    :ivar content_type: as it was served.
    :ivar owner: bare JID of the uploader, where the signature named one.
    :ivar reason: one hyphenated word: ``age``, ``expired``, ``size``, ``quota``, ``asked`` ...
    :ivar by: who deleted it: ``retention``, ``quota``, ``xmpp-server``, or the operator's command.
    """

    time: float
    path: SlotPath
    size: int
    uploaded: float
    content_type: str
    owner: str | None
    reason: str
    by: str

    def line(self) -> str:
        """As JSON in ASCII. The path is percent-encoded, as in the URL, because it need not be UTF-8."""
        fields = {
            "time": round(self.time, 3),
            "path": self.path.url,
            "size": self.size,
            "uploaded": round(self.uploaded, 3),
            "type": self.content_type,
            "owner": self.owner,
            "reason": self.reason,
            "by": self.by,
        }
        return json.dumps({key: value for key, value in fields.items() if value is not None})


class Report:
    """Where deletions are reported to; nowhere, if there is no ``ReportFile``. From any thread.

    Several processes may append to one file. It is made anew when it has been rotated away. A line that can't be
    written (a full disk) is lost, and standard error is told; no deletion fails for it.

    :param path: of the file.
    :param owner: user and group of a file that is made here; ``None`` for our own.
    :raises StartError: when the file can't be had.
    """

    def __init__(self, path: Path | None, owner: tuple[int, int] | None = None) -> None:
        self._sink = None if path is None else FileSink(path, key="ReportFile", owner=owner)

    def add(self, deletion: Deletion) -> None:
        """Append one line. Never raises."""
        if self._sink is not None:
            self._sink.write(deletion.line())

    def reopen(self) -> None:
        """Take the file that has the name now: for a signal that means it."""
        if self._sink is not None:
            self._sink.reopen()

    def close(self) -> None:
        """The end of it: nothing may be added afterwards."""
        if self._sink is not None:
            self._sink.close()
