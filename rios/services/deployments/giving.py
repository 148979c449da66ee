"""What a host is to keep, given to it by who has it: an archive where somebody deploys, a report where it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rios.services.deployments.contents import READ_MAX, Content
from rios.words.errors import SandboxFailed

Read = Callable[[str, int, int], bytes]
"""A chunk by its SHA-256, from where in the whole it begins and how many bytes it has; verified."""


def give(
    what: str,
    content: Content,
    read: Read,
    ask: Callable[[], Sequence[str]],
    put: Callable[[str, bytes], None],
    *,
    within_s: float,
) -> None:
    """Give a host what it says that it is missing, until nothing is. what: for errors.

    Raises SandboxFailed where it is asked for what is no part of it, or for too long; and what the others raise.
    """
    places, offset = dict[str, tuple[int, int]](), 0
    for digest, size in content.chunks:
        places.setdefault(digest, (offset, size))
        offset += size
    whole, own = content.to_bytes(), content.digest
    deadline = time.monotonic() + within_s
    while missing := ask():
        for digest in missing:
            if time.monotonic() > deadline:
                raise SandboxFailed(f"{what} is not taken after {within_s:g} s: its host loses it")
            if digest == own:
                put(digest, whole)
                continue
            if digest not in places:
                raise SandboxFailed(f"a host asks for {digest}, which is no part of {what}")
            put(digest, read(digest, *places[digest]))


def damaged_of(content: Content, damaged: Callable[[Sequence[str]], list[str]]) -> Callable[[], Sequence[str]]:
    """What to ask a host with, so that it reads all that it has of a content: some of what it lacks, or nothing.

    damaged: as `Snapshots.damaged`.
    """
    wanted = [content.digest, *dict.fromkeys(digest for digest, _ in content.chunks)]
    left = [wanted[start : start + READ_MAX] for start in range(0, len(wanted), READ_MAX)]

    def ask() -> Sequence[str]:
        while left:
            if missing := damaged(left[0]):
                return missing
            del left[0]
        return ()

    return ask
