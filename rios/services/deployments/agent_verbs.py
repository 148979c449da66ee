"""What an agent does when it is called: each verb of a host, from JSON to JSON."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from rios.deploy.runtimes.records import check_id
from rios.services.deployments import agent_wire as wire
from rios.services.deployments.host_snapshots import HostSnapshots
from rios.services.deployments.local_host import LocalHost
from rios.words.errors import InvalidRequest, NotFound

LINES_MAX = 5000
"""Of a log, in one answer."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Call = Mapping[str, Any]


def checked(text: object) -> str:
    """An id, which leads nowhere else as a part of a path. Raises InvalidRequest."""
    if not _ID.fullmatch(str(text)):
        raise InvalidRequest(f"{text!r} is no id")
    return str(text)


def _volume(call: Call) -> tuple[str, str, str]:
    """Whose volume, and where it is mounted. Raises InvalidRequest for a path that leads elsewhere."""
    path = str(call["path"])
    if not path.startswith("/") or not path.strip("/") or posixpath.normpath(path) != path or "\0" in path:
        raise InvalidRequest(f"{path[:200]!r} is no place of a volume")
    return checked(call["organisation"]), checked(call["app"]), path


def _look(host: LocalHost, _: Call) -> dict[str, Any]:
    return {"offer": wire.plain(host.offer()), "instances": [wire.plain(one) for one in host.instances()]}


def _pulls(host: LocalHost, call: Call) -> dict[str, Any]:
    return {"pulls": host.pulls(call["specification"], wire.image_of(call["image"]))}


def _prepare(host: LocalHost, call: Call) -> dict[str, Any]:
    found = host.prepare(call["specification"], wire.image_of(call["image"]), here=bool(call["here"]))
    return {"image": wire.image(found)}


def _unpack(host: LocalHost, call: Call) -> dict[str, Any]:
    return {"missing": host.unpack(call["specification"], str(call["digest"]))}


def _start(host: LocalHost, call: Call) -> dict[str, Any]:
    order = wire.order_of(call["order"])
    for part in (order.organisation_id, order.app_id):
        checked(part)
    return wire.plain(host.start(order))


def _end(host: LocalHost, call: Call) -> dict[str, Any]:
    return wire.ended(host.end(check_id(call["replica"]), grace_s=float(call["grace_s"])))


def _clear(host: LocalHost, call: Call) -> dict[str, Any]:
    host.clear(check_id(call["replica"]))
    return {}


def _forget(host: LocalHost, call: Call) -> dict[str, Any]:
    host.forget(checked(call["organisation"]), checked(call["app"]), call["specification"])
    return {}


def _move_volume(host: LocalHost, call: Call) -> dict[str, Any]:
    organisation, app, path = _volume(call)
    _, to_app, to_path = _volume({**call, "app": call["to_app"], "path": call["to_path"]})
    host.move_volume(organisation, app, path, to_app=to_app, to_path=to_path)
    return {}


def _remove_volume(host: LocalHost, call: Call) -> dict[str, Any]:
    host.remove_volume(*_volume(call))
    return {}


def _metrics(host: LocalHost, call: Call) -> dict[str, Any]:
    return wire.plain(host.metrics(check_id(call["replica"])))


def _logs(host: LocalHost, call: Call) -> dict[str, Any]:
    """The next lines, whether there may be more of them at once, and whether more can come."""
    replica_id, lines = check_id(call["replica"]), list[list[Any]]()
    try:
        ended = host.status(replica_id).state == "exited"  # asked first: what it wrote before its end is read then
    except NotFound:
        ended = True
    for line in host.logs(replica_id, since=float(call["since"])):
        lines.append([line.at, line.stream, line.text])
        if len(lines) == LINES_MAX:
            break
    return {"lines": lines, "full": len(lines) == LINES_MAX, "ended": ended}


def _exec(host: LocalHost, call: Call) -> dict[str, Any]:
    command, timeout_s = list(map(str, call["command"])), float(call["within_s"])
    return wire.executed(host.exec(check_id(call["replica"]), command, timeout_s=timeout_s))


def _put_secrets(host: LocalHost, call: Call) -> dict[str, Any]:
    host.put_secrets(check_id(call["replica"]), wire.secrets_of(call["secrets"]))
    return {}


def _snapshots(host: LocalHost) -> HostSnapshots:
    if host.snapshots is None:
        raise InvalidRequest(f"host {host.name} makes no snapshots")
    return host.snapshots


def _take(host: LocalHost, call: Call) -> dict[str, Any]:
    return dataclasses.asdict(_snapshots(host).take(*_volume(call), checked(call["snapshot"])))


def _get(host: LocalHost, call: Call) -> dict[str, Any]:
    return {wire.BODY: _snapshots(host).get(str(call["digest"]))}


def _put(host: LocalHost, call: Call) -> dict[str, Any]:
    _snapshots(host).put(str(call["digest"]), bytes(call[wire.BODY]))
    return {}


def _keep(host: LocalHost, call: Call) -> dict[str, Any]:
    names = checked(call["app"]), checked(call["snapshot"])
    return {"missing": _snapshots(host).keep(*names, str(call["digest"]))}


def _damaged(host: LocalHost, call: Call) -> dict[str, Any]:
    return {"missing": _snapshots(host).damaged([str(digest) for digest in call["digests"]])}


def _is_made(host: LocalHost, call: Call) -> dict[str, Any]:
    return {"made": _snapshots(host).is_made(*_volume(call))}


def _restore(host: LocalHost, call: Call) -> dict[str, Any]:
    size_bytes, digest = int(call["size_bytes"]), str(call["digest"])
    return {"missing": _snapshots(host).restore(*_volume(call), size_bytes=size_bytes, digest=digest)}


def _unmake(host: LocalHost, call: Call) -> dict[str, Any]:
    _snapshots(host).unmake(*_volume(call))
    return {}


def _kept(host: LocalHost, _: Call) -> dict[str, Any]:
    return {"kept": _snapshots(host).kept()}


def _drop(host: LocalHost, call: Call) -> dict[str, Any]:
    _snapshots(host).drop(checked(call["app"]), checked(call["snapshot"]))
    return {}


def _give_up(host: LocalHost, _: Call) -> dict[str, Any]:
    _snapshots(host).give_up()
    return {}


VERBS: Mapping[str, Callable[[LocalHost, Call], dict[str, Any]]] = {
    "look": _look,
    "pulls": _pulls,
    "prepare": _prepare,
    "unpack": _unpack,
    "start": _start,
    "end": _end,
    "clear": _clear,
    "forget": _forget,
    "move_volume": _move_volume,
    "remove_volume": _remove_volume,
    "metrics": _metrics,
    "logs": _logs,
    "exec": _exec,
    "put_secrets": _put_secrets,
    "snapshot take": _take,
    "snapshot get": _get,
    "snapshot put": _put,
    "snapshot keep": _keep,
    "snapshot damaged": _damaged,
    "snapshot is_made": _is_made,
    "snapshot restore": _restore,
    "snapshot unmake": _unmake,
    "snapshot kept": _kept,
    "snapshot drop": _drop,
    wire.GIVE_UP: _give_up,
}
