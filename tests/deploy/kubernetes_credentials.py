"""A kubeconfig whose credentials a program is to give."""

from __future__ import annotations

from pathlib import Path

import yaml


def config_of(path: Path, program: str, *arguments: str) -> str:
    """Write it; nobody listens at its cluster's address. Returns its path."""
    run = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": program,
        "args": list(arguments),
        "interactiveMode": "Never",
    }
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {"exec": run}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    return str(path)
