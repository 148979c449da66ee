"""Images of an engine: those that are here, those of archives, those that are pulled; pinned by their digest."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docker.errors import ImageNotFound
from urllib3.exceptions import HTTPError

from rios.deploy.runtimes.credentials import within
from rios.deploy.runtimes.engine_leftovers import came, what_is_here
from rios.deploy.runtimes.engine_service import EngineService, translated
from rios.deploy.runtimes.fetched import Fetched
from rios.deploy.runtimes.protocol import ImageBase
from rios.deploy.runtimes.rootfs import check, digest_of, is_image
from rios.words.errors import DeadlineExceeded, NotFound, SandboxFailed

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_NO_REGISTRY = "localhost/"
"""What the engine puts before the names of images that it made itself."""


class Images:
    """Those of one engine. What it fetches is marked."""

    def __init__(self, service: EngineService, fetched: Fetched) -> None:
        self._service, self._fetched = service, fetched

    def __repr__(self) -> str:
        return f"<Images of {self._service.storage}>"

    def named(self, reference: str, timeout_s: float, *, here: bool, no_room: Callable[[], str]) -> ImageBase:
        """The image of a reference or digest. NotFound where it is neither here nor to be had.

        What a registry calls by the name may be another image by now: it is asked first, and where it does not answer,
        or there is no room for what it has, the one that is here is taken. here: for those alone who may run whatever
        is: somebody else's private image lies under its name and its id, and others may have been loaded under the name
        of a public one.
        """
        if not here:
            return self._pulled(_whole(reference), timeout_s, no_room)
        asked = _names_registry(reference)
        if not asked and (found := self._here(reference)) is not None:
            return found
        try:
            return self._pulled(reference, timeout_s, no_room)
        except (NotFound, SandboxFailed) as error:
            if not asked or (found := self._here(reference)) is None:
                raise
            log.warning("an image is as it is here", extra={"image": reference, "reason": str(error)})
            return found

    def pinned(self, reference: str, pinned: ImageBase, timeout_s: float, *, no_room: Callable[[], str]) -> ImageBase:
        """The image that a reference led to when it was resolved. NotFound where that is neither here nor to be had."""
        for name in filter(None, (pinned.digest, pinned.source)):
            if (found := self._here(name)) is not None:
                return found
        gone = (
            f"{reference} was {pinned.digest} when it was resolved, which is not on this host and cannot be pulled: "
            "load it here, or update the deployment, which resolves the name anew"
        )
        if not pinned.source:
            raise NotFound(gone)
        try:
            return self._pulled(pinned.source, timeout_s, no_room)
        except NotFound as error:
            raise NotFound(f"{gone} ({error})") from error

    def _here(self, reference: str) -> ImageBase | None:
        """An image that this host has, or None."""
        with translated(f"the image {reference}"):
            try:
                return _base(self._service.client().inspect_image(reference), reference)
            except ImageNotFound:
                return None

    def _use(self, reference: str) -> None:
        """See to it that no room is made of what is here by that name: it may be all that is to be had."""
        if (found := self._here(reference)) is not None:
            with self._fetched.using(found):
                return

    def _pulled(self, reference: str, timeout_s: float, no_room: Callable[[], str]) -> ImageBase:
        try:
            self._use(reference)
            _require_room(no_room)  # before it is begun: what makes room does not wait for who fetches
            with (
                self._service.patient(timeout_s) as patient,
                translated(f"the image {reference}"),
                self._fetched.fetching(reference, lambda: what_is_here(self._service, self._fetched)) as before,
            ):
                self._pull(patient, reference, timeout_s, no_room)
                described = patient.inspect_image(reference)
                came(self._service, self._fetched, described, before)
                return _base(described, reference)
        except _NoRoom as error:
            raise SandboxFailed(f"the image {reference} is not pulled: {error}") from error
        except (SandboxFailed, DeadlineExceeded) as error:
            raise NotFound(f"the image {reference} is not on this host and cannot be pulled: {error}") from error

    def _pull(self, patient: Any, reference: str, timeout_s: float, no_room: Callable[[], str]) -> None:
        late = f"it did not come within {timeout_s:g} s; a helper for its registry's credentials may hang"
        try:
            # The library waits for the engine, and for helpers of its own, without an end.
            said = within(
                lambda: b"".join(patient.pull(reference, stream=True)),
                timeout_s, late=late, also=self._service.process_id, check=lambda: _require_room(no_room),
            )  # fmt: skip
        except HTTPError as error:
            raise SandboxFailed(f"the image {reference}: the engine did not say how it ended: {error}") from error
        except BaseException:
            patient.break_off()
            raise
        _check_pull(reference, said.decode())

    def known_archive(self, digest: str) -> ImageBase | None:
        """What `of_archive` made of an archive whose bytes have that digest, where it is here."""
        client = self._service.client()
        for kind in ("rootfs", "image"):
            with translated(f"the archive {digest}"), contextlib.suppress(ImageNotFound):
                return ImageBase(str(client.inspect_image(_tag(kind, digest))["Id"]))
        return None

    def of_archive(self, archive: Path, timeout_s: float) -> ImageBase:
        """The image that an archive is, or is made into. The same content is read once."""
        client = self._service.client()
        image = is_image(archive)
        if not image:
            check(archive)
        tag = _tag("image" if image else "rootfs", digest_of(archive))
        with translated(f"the archive {archive}"), contextlib.suppress(ImageNotFound):
            return ImageBase(str(client.inspect_image(tag)["Id"]))
        with (
            self._service.patient(timeout_s) as patient,
            translated(f"the archive {archive}"),
            self._fetched.fetching(tag, lambda: what_is_here(self._service, self._fetched)) as before,
            archive.open("rb") as file,
        ):
            if image:
                name = str(list(patient.load_image(file))[-1]["stream"]).strip().rpartition("Loaded image: ")[2]
            else:
                # A generator, for the library announces chunks, and a file would be sent without them.
                said = patient.import_image_from_stream(iter(lambda: file.read(_CHUNK_BYTES), b""))
                name = str(json.loads(said.splitlines()[-1])["id"])
            client.tag(name, *tag.rsplit(":", 1))
            described = client.inspect_image(tag)
            came(self._service, self._fetched, described, before)
            return ImageBase(str(described["Id"]))


class _NoRoom(Exception):
    """There is no room for more of an image."""


def _require_room(no_room: Callable[[], str]) -> None:
    if why := no_room():
        raise _NoRoom(why)


def _names_registry(reference: str) -> bool:
    """Whether it is a name in a registry that it says, and no digest. Names without one are this host's first: what
    somebody else publishes under the same word is not taken for it."""
    host, slash, _ = reference.partition("/")
    return bool(slash) and "@" not in reference and any(mark in host for mark in ".:")


def _whole(reference: str) -> str:
    """A reference that can mean a registry's image alone, as Docker completes it: "tool" is "docker.io/library/tool".

    So an id, and a name that somebody has given here, lead nowhere.
    """
    host, slash, _ = reference.partition("/")
    if slash and (host == "localhost" or any(mark in host for mark in ".:")):
        return reference
    return f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"


def _check_pull(reference: str, said: str) -> None:
    """SandboxFailed where a pull went wrong. The engine answers before it begins, and says so in what follows, line by
    line; an image of the name that is here would be taken for what was pulled."""
    for line in said.splitlines():
        if (wrong := json.loads(line).get("error")) is not None:
            raise SandboxFailed(f"the image {reference}: {wrong}")


def _base(described: Mapping[str, Any], reference: str) -> ImageBase:
    """What the engine says of an image, with the reference by digest that leads where `reference` led."""
    name = reference.partition("@")[0]
    name = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    known = [str(one) for one in described.get("RepoDigests") or () if not str(one).startswith(_NO_REGISTRY)]
    # A short name was completed by the engine: "tool" is "docker.io/library/tool".
    mine = [one for one in known if f"/{one.partition('@')[0]}".endswith(f"/{name}")]
    return ImageBase(str(described["Id"]), min(mine, key=len, default=""))


def _tag(kind: str, digest: str) -> str:
    return f"localhost/rios/{kind}:{digest.removeprefix('sha256:')}"
