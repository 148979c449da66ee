"""A registry of images on loopback: what a pull asks for, and no more (OCI distribution specification)."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import json
import platform
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_PART_BYTES = 1 << 18


class Registry:
    """One repository, `name`. A context manager."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[str, bytes] = {}
        self.pulls: list[str] = []
        """What manifests were asked for, in order: tags and digests."""
        self.sending: Callable[[int, int], None] = lambda sent, size: None
        """Called after each part of an answer, with what was sent of it and its size."""
        registry = self

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self)

            def do_HEAD(self) -> None:
                registry._answer(self)

            def log_message(self, *args: object) -> None:
                """Nobody reads it."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.name = f"127.0.0.1:{self._server.server_address[1]}/lab/tool"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def push(self, saved: Path, tag: str) -> str:
        """Have an image under a tag, which moves to it; the digest of its manifest."""
        with tarfile.open(saved) as tar:
            said = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            config = tar.extractfile(said["Config"]).read()  # type: ignore[union-attr]
            layer = tar.extractfile(said["Layers"][0]).read()  # type: ignore[union-attr]
        return self._pushed(config, [layer], tag)

    def push_layers(self, layers: Sequence[bytes], tag: str, command: Sequence[str]) -> str:
        """The same of an image of these layers, each a tar archive."""
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": {"Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        }
        return self._pushed(json.dumps(config).encode(), layers, tag)

    def _pushed(self, config: bytes, layers: Sequence[bytes], tag: str) -> str:
        parts = [
            {"mediaType": kind, "size": len(content), "digest": self._kept(content)}
            for kind, content in ((_CONFIG, config), *((_LAYER, gzip.compress(layer, 1)) for layer in layers))
        ]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts[0], "layers": parts[1:]}
        ).encode()
        digest = _digest(manifest)
        self._manifests[tag] = self._manifests[digest] = manifest
        return digest

    def forget(self, tag: str) -> None:
        """Have nothing under a tag."""
        del self._manifests[tag]

    def _kept(self, content: bytes) -> str:
        self._blobs[_digest(content)] = content
        return _digest(content)

    def _answer(self, asked: http.server.BaseHTTPRequestHandler) -> None:
        kind, _, name = asked.path.rpartition("/")
        if kind.endswith("/manifests"):
            self.pulls.append(name)
            content, media = self._manifests.get(name), _MANIFEST
        else:
            content, media = b"{}" if asked.path == "/v2/" else self._blobs.get(name), "application/octet-stream"
        asked.send_response(404 if content is None else 200)
        asked.send_header("Content-Type", media)
        asked.send_header("Content-Length", str(len(content or b"")))
        if content is not None:
            asked.send_header("Docker-Content-Digest", _digest(content))
        asked.end_headers()
        if content is not None and asked.command == "GET":
            with contextlib.suppress(ConnectionError):  # who asked may have gone
                for start in range(0, len(content), _PART_BYTES):
                    asked.wfile.write(content[start : start + _PART_BYTES])
                    self.sending(min(start + _PART_BYTES, len(content)), len(content))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
