"""Tar files read with bounds: no header decides how much memory is used."""

from __future__ import annotations

import tarfile

HEADER_BYTES = 2**20
_TEXT_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"X")


class BoundedInfo(tarfile.TarInfo):
    """A header that is refused where it announces more text than names need: tarfile reads that text into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _TEXT_TYPES and self.size > HEADER_BYTES:
            raise tarfile.ReadError("a header of more than a megabyte")
        return super()._proc_member(tar)  # type: ignore[misc]
