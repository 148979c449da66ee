"""The commands for applications: `rios apps`, `rios apply`, `rios logs` ... They talk to a gateway."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rios.client.apps import RemoteDeployments

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="As `rios apps` shows it.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until it is ready.")]
File = Annotated[Path, typer.Option("-f", "--file", exists=True, dir_okay=False, help="A specification in YAML.")]
_WAIT_S = 600.0


def add_to(app: typer.Typer) -> None:
    """Add all of them to the command line."""
    for command in (
        apply, apps, app_, open_, logs, events, scale, rollback, secrets, rotate, org_secrets, org_secret, pause,
        resume, restart, delete, exec_, snapshot, snapshots, volumes,
    ):  # fmt: skip
        app.command(command.__name__.rstrip("_").replace("_", "-"))(command)


@contextmanager
def _deploy() -> Iterator[RemoteDeployments]:
    from rios.client.where import must_find

    with must_find().connect() as network:
        yield network.deploy


def _say(value: object, as_json: bool, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rios.words.display import text_table

    sys.stdout.write((json.dumps(value) if as_json else text_table(columns, rows)) + "\n")


def apply(
    file: File,
    dry_run: Annotated[bool, typer.Option("--plan", help="Show what would change, and change nothing.")] = False,
    wait: Wait = False,
) -> None:
    """Make applications what a file says: new ones are created, others updated where they differ."""
    with _deploy() as deploy:
        sys.stdout.write(f"{deploy.plan(file)}\n")
        if dry_run:
            return
        for app in deploy.apply(file):
            if wait:
                app.wait(timeout=_WAIT_S)
            sys.stdout.write(f"{app.name} {app.status}\n")


def apps(as_json: AsJson = False) -> None:
    """The applications of the organisation."""
    with _deploy() as deploy:
        found = deploy._http.pages("/v1/apps")
    rows = [(one["name"], one["status"], one["replicas"], one["revision"], one["url"], one["reason"]) for one in found]
    _say(found, as_json, ("name", "status", "replicas", "revision", "url", "reason"), rows)


def app_(name: Name, as_json: AsJson = False) -> None:
    """One application with its replicas."""
    with _deploy() as deploy:
        app = deploy.get(name)
        found: dict[str, Any] = {**app._found(), "data": app._http.pages(f"/v1/apps/{name}/replicas")}
    rows = [(one["id"], one["state"], one["revision"], one["host"], _moment(one["ready_at"])) for one in found["data"]]
    if not as_json:
        sys.stdout.write(f"{name} {found['status']} {found['reason']}\n")
    _say(found, as_json, ("replica", "state", "revision", "host", "ready since"), rows)


def open_(
    name: Name,
    hours: Annotated[float, typer.Option(min=0.01, max=12, help="It is good for so long.")] = 1.0,
) -> None:
    """The address that opens an application in a browser, for whoever has it."""
    with _deploy() as deploy:
        sys.stdout.write(f"{deploy.get(name).link(hours=hours)}\n")


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until it has ended.")] = False,
    replica: Annotated[str | None, typer.Option(help="Of this replica alone.")] = None,
) -> None:
    """What an application wrote."""
    with _deploy() as deploy:
        app = deploy.get(name)
        for line in app.logs(follow=True, replica=replica) if follow else app.logs(replica=replica):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def events(name: Name, as_json: AsJson = False) -> None:
    """What happened to an application, oldest first."""
    with _deploy() as deploy:
        found = deploy.get(name).events
    value = [{"seq": one.seq, "at": one.at, "kind": one.kind, "said": str(one)} for one in found]
    _say(value, as_json, ("at", "what"), [(_moment(one.at), str(one)) for one in found])


def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(min=0)],
    most: Annotated[int | None, typer.Argument(min=1, help="Up to so many, as the load asks for.")] = None,
) -> None:
    """Want so many replicas."""
    with _deploy() as deploy:
        deploy.get(name).scale(replicas if most is None else (replicas, most))


def rollback(name: Name, revision: Annotated[int | None, typer.Argument(min=1)] = None) -> None:
    """Want the revision before, or one by its number."""
    with _deploy() as deploy:
        sys.stdout.write(f"{name} revision {deploy.get(name).rollback(revision)}\n")


def secrets(name: Name, as_json: AsJson = False) -> None:
    """The secrets of an application, without their values."""
    with _deploy() as deploy:
        found = deploy.get(name).secrets
    _say(found, as_json, ("secret", "changed"), [(one["name"], _moment(one["changed_at"])) for one in found])


def rotate(
    name: Name,
    secret: Annotated[str, typer.Argument(help="As `rios secrets NAME` shows it.")],
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Of the value; else stdin.")] = None,
) -> None:
    """Give a secret anew while an application runs; its value is read from a file or standard input."""
    value = (sys.stdin.read() if file is None else file.read_text()).removesuffix("\n")
    with _deploy() as deploy:
        deploy.get(name).rotate_secrets({secret: value})


def org_secrets(as_json: AsJson = False) -> None:
    """The organisation's own secrets, without their values: applications take them by {store: NAME}."""
    with _deploy() as deploy:
        found = deploy.secrets.list()
    _say(found, as_json, ("secret", "changed"), [(one["name"], _moment(one["changed_at"])) for one in found])


def org_secret(
    secret: Annotated[str, typer.Argument(help="What applications refer to.")],
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Of the value; else stdin.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Keep it no longer.")] = False,
) -> None:
    """Keep a secret for all applications of the organisation; its value is read from a file or standard input."""
    with _deploy() as deploy:
        if delete:
            deploy.secrets.delete(secret)
        else:
            value = (sys.stdin.read() if file is None else file.read_text()).removesuffix("\n")
            deploy.secrets.put({secret: value})


def snapshot(
    name: Name,
    path: Annotated[str, typer.Argument(help="Where it mounts the volume; with --delete, the snapshot's id.")],
    copies: Annotated[int, typer.Option(min=1, max=16, help="So many hosts keep it.")] = 1,
    delete: Annotated[bool, typer.Option("--delete", help="Keep the snapshot of that id no longer.")] = False,
) -> None:
    """Take a snapshot of a volume; its id, by which a new application's volume begins with it."""
    with _deploy() as deploy:
        found = deploy.get(name).snapshots
        if delete:
            found.delete(path)
        else:
            sys.stdout.write(f"{found.take(path, copies=copies).id}\n")


def snapshots(name: Name, as_json: AsJson = False) -> None:
    """The snapshots of an application's volumes, oldest first."""
    with _deploy() as deploy:
        found = deploy.get(name).snapshots.list()
    names = ("id", "path", "state", "size_bytes", "quota_bytes", "copies", "hosts", "created_at", "reason")
    value = [{field: getattr(one, field) for field in names} for one in found]
    columns = ("snapshot", "volume", "state", "MiB", "hosts", "taken", "reason")
    rows = [
        (one.id, one.path, one.state, f"{one.size_bytes / 2**20:.1f}", " ".join(one.hosts), _moment(one.created_at),
         one.reason) for one in found
    ]  # fmt: skip
    _say(value, as_json, columns, rows)


def volumes(
    delete: Annotated[str | None, typer.Option(metavar="ID", help="Remove this one for good.")] = None,
    as_json: AsJson = False,
) -> None:
    """The volumes that were kept when their applications were deleted."""
    with _deploy() as deploy:
        if delete is not None:
            deploy.volumes.delete(delete)
            return
        found = deploy.volumes.list()
    rows = [
        (one.id, one.deployment, one.path, one.host, f"{one.quota_bytes / 2**20:.1f}", _moment(one.deleted_at),
         one.taken_by) for one in found
    ]  # fmt: skip
    columns = ("volume", "of", "at", "host", "MiB", "deleted", "taken by")
    _say([asdict(one) for one in found], as_json, columns, rows)


def pause(name: Name) -> None:
    """Want no replica to run."""
    with _deploy() as deploy:
        deploy.get(name).pause()


def resume(name: Name) -> None:
    """Want a paused application to run again."""
    with _deploy() as deploy:
        deploy.get(name).resume()


def restart(name: Name) -> None:
    """Want all replicas replaced by new ones."""
    with _deploy() as deploy:
        deploy.get(name).restart()


def delete(name: Name) -> None:
    """Take an application down, with what is not to be kept."""
    with _deploy() as deploy:
        deploy.get(name).delete()


def exec_(
    name: Name,
    command: Annotated[list[str], typer.Argument(help="After `--`.")],
    replica: Annotated[str | None, typer.Option(help="In this replica.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds, after which it is ended.")] = 30.0,
) -> None:
    """Run a command inside a replica; its exit code is that of this command."""
    with _deploy() as deploy:
        done = deploy.get(name).exec(command, replica=replica, timeout=timeout)
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(done.stderr)
    raise typer.Exit(done.exit_code)


def _moment(at: int) -> str:
    return "" if not at else f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
