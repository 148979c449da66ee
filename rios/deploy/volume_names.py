"""What a volume is called where it is kept, by the place where an application has it."""

from __future__ import annotations

from collections.abc import Iterable

from rios.words.errors import InvalidRequest

PATH_MAX_BYTES = 229
"""Of a new volume's place: it becomes the name of one file, to which a host adds up to 27 of its 255 bytes."""


def volume_name(path: str) -> str:
    """The name of the volume at an absolute path, one part: "/data/a" is called "data+a"."""
    return path.strip("/").replace("/", "+")


def check_new(paths: Iterable[str], before: Iterable[str] = ()) -> None:
    """Raise InvalidRequest where a volume that comes newly could be called as another one, or has no possible name.

    before: the places of volumes that are there. Those with a "+", of which earlier versions took some, stay as they
    are.
    """
    known = {path: volume_name(path) for path in before}
    for path in paths:
        if path in known:
            continue
        if "+" in path:
            raise InvalidRequest(f"volumes.{path}: a new volume's place has no '+'; choose another, such as /data")
        if len(path.encode()) > PATH_MAX_BYTES:
            raise InvalidRequest(f"volumes.{path[:40]}...: a volume's place is at most {PATH_MAX_BYTES} bytes long")
        if volume_name(path) in known.values():
            raise InvalidRequest(f"volumes.{path}: the files of another volume lie under its name; choose another")
