"""What an engine's storage has of what rios fetched, and how that goes: images, and layers of those that never came.

A pull that is broken off leaves the layers that had come whole. They belong to no image, and no verb of an engine takes
them away. So an image is made of them, without a name, and removed: with it go those of its layers that no other image
has. Its id follows from its layers, so it is known also where who made it was killed before it was removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import tarfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from docker.errors import APIError, ImageNotFound

from rios.deploy.runtimes.engine_service import EngineService, translated
from rios.deploy.runtimes.fetched import Before, Fetched, Mark
from rios.deploy.runtimes.protocol import ImageBase
from rios.words.errors import SandboxFailed
from rios.words.foreign import remove_tree

log = logging.getLogger(__name__)

_LISTED_WITHIN_S = 5.0
_CALL_S = 60.0
_LABEL = "rios.leftovers"
"""Tells whoever looks at such an image what it is; it is known by its id alone, for others may have any label."""
_PARTS = ("storage[0-9]*", "api_load*", "docker-tar*")
"""What an engine that is killed leaves of what it was fetching, where its temporary files are; nobody fetches then."""


def what_is_here(service: EngineService, fetched: Fetched) -> Before:
    """What an image that is fetched from now on is compared with, by `came`."""
    names = {str(one["Id"]): list(one["RepoTags"] or ()) for one in _listed(service)}
    marks = {digest: fetched.of(ImageBase(digest)) for digest in names}
    foreign = [digest for digest, mark in marks.items() if mark is None or not _is_of(service.storage, mark)]
    return {"names": names, "foreign": foreign, "layers": sorted(_layers(service.storage))}


def _listed(service: EngineService) -> list[dict[str, Any]]:
    """All images. While one goes, podman lists none."""
    deadline, client = time.monotonic() + _LISTED_WITHIN_S, service.client()
    while True:
        try:
            return list(client.images(all=True))
        except APIError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def came(service: EngineService, fetched: Fetched, described: Mapping[str, Any], before: Before) -> None:
    """An image is here that was fetched: it is rios' own, unless somebody else had brought it before."""
    image = ImageBase(str(described["Id"]))
    if image.digest not in before["foreign"]:
        names = frozenset(described.get("RepoTags") or ()) - set(before["names"].get(image.digest, ()))
        fetched.mark(image, names, _arrival(service.storage, image.digest))


def _arrival(storage: Path, digest: str) -> str:
    """When the storage was last brought an image, whoever did: what is written of it is written anew then, and after
    that never. Its own record has the time at which it was built. Empty where it is not here."""
    for path in storage.glob(f"root/*-images/{digest.removeprefix('sha256:')}"):
        with contextlib.suppress(FileNotFoundError):  # it just goes
            return str(path.stat().st_mtime_ns)
    return ""


def _is_of(storage: Path, mark: Mark) -> bool:
    """Whether what is here came as the mark says."""
    return mark.arrival in ("", _arrival(storage, mark.base.digest))


def drop_image(service: EngineService, mark: Mark) -> None:
    """Remove an image; not one that has got other names meanwhile, or that somebody else has brought anew.

    Raises SandboxFailed where a container has it.
    """
    digest, client = mark.base.digest, service.client()
    with translated(f"the image {digest} stays"):
        try:
            names = client.inspect_image(digest)["RepoTags"] or []
        except ImageNotFound:
            return
        if others := sorted(set(names) - mark.names):
            log.info("an image that was fetched stays: it has other names", extra={"image": digest, "names": others})
            return
        if not _is_of(service.storage, mark):
            log.info("an image stays: somebody else has brought it since it was fetched", extra={"image": digest})
            return
        for name in (*names[1:], digest):  # by its digest only an image of one name is removed
            with contextlib.suppress(ImageNotFound):
                client.remove_image(name, noprune=True)


def sweep_images(service: EngineService, fetched: Fetched, *, at_once: bool) -> None:
    """Take away layers of images that did not come."""

    def take_away(before: Before) -> None:
        for pattern in _PARTS:
            for path in service.storage.glob(pattern):
                remove_tree(path)
        _drop_layers(service, before["layers"])

    fetched.resolve(take_away, at_once=at_once)


# --- layers ------------------------------------------------------------------------------------------------------


def _stored(storage: Path, kind: str) -> list[dict[str, Any]]:
    """What the storage knows of its layers, images or containers (containers/storage), by whichever driver."""
    found = list[dict[str, Any]]()
    for path in storage.glob(f"root/*-{kind}/{kind}.json"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # it is just being made
            found += json.loads(path.read_text()) or ()
    return found


def _layers(storage: Path) -> dict[str, dict[str, Any]]:
    return {str(one["id"]): one for one in _stored(storage, "layers")}


def _leftovers(storage: Path, known: Collection[str]) -> Iterator[list[str]]:
    """Layers that are new, and that no image or container has: as chains of digests, from the lowest one."""
    layers = _layers(storage)  # read first: what an image or container has by now, it has
    free = layers.keys() - set(known)
    for holder in (*_stored(storage, "images"), *_stored(storage, "containers")):
        for top in (holder.get("layer"), *holder.get("mapped-layers", ())):
            free -= {one["id"] for one in _chain(layers, top)}
    # The layer of a container that is just being made has no digest.
    free = {one for one in free if all(each.get("diff-digest") for each in _chain(layers, one))}
    for top in free - {layers[one].get("parent") for one in free}:
        yield [str(one["diff-digest"]) for one in reversed(_chain(layers, top))]


def _chain(layers: Mapping[str, dict[str, Any]], top: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while top is not None and top in layers and len(found) <= len(layers):
        found.append(layers[top])
        top = layers[top].get("parent")
    return found


def _drop_layers(service: EngineService, known: Collection[str]) -> None:
    """known: those that were there before, which are not rios' to take."""
    left, chains = _made(service.storage), list(_leftovers(service.storage, known))
    if not (left or chains):
        return
    why: SandboxFailed | None = None
    with service.patient(_CALL_S) as client:
        for chain in (*left, *chains):
            try:
                _drop_chain(client, chain, loaded=chain in left)
            except SandboxFailed as error:  # the others go all the same
                why = error
    if why is not None:
        raise why
    log.info("layers of images that did not come are taken away", extra={"layers": sum(map(len, chains))})


def _drop_chain(client: Any, chain: list[str], *, loaded: bool) -> None:
    with translated("layers of images that did not come stay"):
        if not loaded:
            for _ in client.load_image(_image_of(chain)):
                continue
        with contextlib.suppress(ImageNotFound):
            client.remove_image(f"sha256:{_id_of(chain)}", noprune=True)


def _made(storage: Path) -> list[list[str]]:
    """The layers of each image that was made of what did not come, and that is there still."""
    layers, found = _layers(storage), list[list[str]]()
    for image in _stored(storage, "images"):
        chain = [str(one.get("diff-digest")) for one in reversed(_chain(layers, image.get("layer")))]
        if not image.get("names") and image["id"] == _id_of(chain):
            found.append(chain)
    return found


def _config_of(chain: list[str]) -> bytes:
    system = {"architecture": "amd64", "os": "linux", "config": {"Labels": {_LABEL: "1"}}}
    return json.dumps({**system, "rootfs": {"type": "layers", "diff_ids": chain}}).encode()


def _id_of(chain: list[str]) -> str:
    return hashlib.sha256(_config_of(chain)).hexdigest()


def _image_of(chain: list[str]) -> bytes:
    """An image of layers that are there, as `docker save` writes one; their content is not asked for."""
    name, files = f"{_id_of(chain)}.json", [f"{number}.tar" for number in range(len(chain))]
    manifest = json.dumps([{"Config": name, "RepoTags": None, "Layers": files}]).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, content in ((name, _config_of(chain)), *((file, b"") for file in files), ("manifest.json", manifest)):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return whole.getvalue()
