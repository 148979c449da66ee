"""Images of an engine: those that are here, those of archives, those that are pulled; pinned by their digest."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from docker.errors import ImageNotFound

from rios.deploy.runtimes.engine_service import EngineService, translated
from rios.deploy.runtimes.protocol import ImageBase
from rios.deploy.runtimes.rootfs import check, digest_of, is_image
from rios.words.errors import NotFound, SandboxFailed

_CHUNK_BYTES = 1 << 20


def named_image(service: EngineService, reference: str, timeout_s: float) -> ImageBase:
    """The image of a reference or digest. NotFound where it is neither here nor to be had."""
    client = service.client()
    with translated(f"the image {reference}"), contextlib.suppress(ImageNotFound):
        return ImageBase(str(client.inspect_image(reference)["Id"]))
    try:
        with service.patient(timeout_s) as patient, translated(f"the image {reference}"):
            patient.pull(reference)
            return ImageBase(str(client.inspect_image(reference)["Id"]))
    except SandboxFailed as error:
        raise NotFound(f"the image {reference} is not on this host and cannot be pulled: {error}") from error


def image_of_archive(service: EngineService, archive: Path, timeout_s: float) -> ImageBase:
    """The image that an archive is, or is made into. The same content is read once."""
    client = service.client()
    image = is_image(archive)
    if not image:
        check(archive)
    tag = f"localhost/rios/{'image' if image else 'rootfs'}:{digest_of(archive).removeprefix('sha256:')}"
    with translated(f"the archive {archive}"), contextlib.suppress(ImageNotFound):
        return ImageBase(str(client.inspect_image(tag)["Id"]))
    with service.patient(timeout_s) as patient, translated(f"the archive {archive}"), archive.open("rb") as file:
        if image:
            name = str(list(patient.load_image(file))[-1]["stream"]).strip().rpartition("Loaded image: ")[2]
        else:
            # A generator, for the library announces chunks, and a file would be sent without them.
            said = patient.import_image_from_stream(iter(lambda: file.read(_CHUNK_BYTES), b""))
            name = str(json.loads(said.splitlines()[-1])["id"])
        client.tag(name, *tag.rsplit(":", 1))
        return ImageBase(str(client.inspect_image(tag)["Id"]))
