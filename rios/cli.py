"""The command `rios`. Imports wait for the command that needs them, so that `rios --help` is quick."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rios import money_cli, report_cli
from rios.client import app_commands, wallet_commands
from rios.client import commands as client_commands
from rios.gateway import backup_commands
from rios.gateway import commands as gateway_commands
from rios.words.errors import RiosError

if TYPE_CHECKING:
    from rios.client.remote import RemoteNetwork
    from rios.services.network import Network
    from rios.services.views import Placement

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
money_cli.add_to(app)
report_cli.add_to(app)
gateway_commands.add_to(app)
client_commands.add_to(app)
app_commands.add_to(app)
wallet_commands.add_to(money_cli.wallet)
backup_commands.add_to(app)

Scheduler = Annotated[
    str | None, typer.Option(help="A Dask scheduler such as tcp://head:8786; without it, workers start here.")
]
Workers = Annotated[int, typer.Option(min=1, help="Workers to start when there is no --scheduler.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _show_log(wanted: bool) -> bool:
    if wanted:
        from rios.words.logs import configure

        configure()
    return wanted


Verbose = Annotated[
    bool,
    typer.Option("--verbose", callback=_show_log, help="Show the log, as JSON lines, on standard error."),
]


@contextmanager
def _network(scheduler: str | None, workers: int) -> Iterator[Network | RemoteNetwork]:
    """The network of a scheduler; else that of a gateway that this environment names or runs; else one made here."""
    from rios.client.where import find

    place = None if scheduler else find()
    if place is not None:
        with place.connect() as remote:
            yield remote
        return
    from rios.services.network import connect, local  # which whoever uses a gateway alone may do without

    with connect(scheduler) if scheduler else local(workers=workers) as network:
        yield network


@app.command()
def generate(
    prompt: str,
    model: Annotated[str, typer.Option(help="'demo' or the directory of a checkpoint.")] = "demo",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="It ends after so many at the latest.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that add up to this.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from this many of the likeliest tokens; 0 is all.")] = 0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same sample.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Copies of each expert in all.")] = None,
    scheduler: Scheduler = None,
    workers: Workers = 2,
    stream: Annotated[bool, typer.Option(help="Show the answer as it comes, or only when it is complete.")] = True,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Deploy a model and answer one prompt."""
    with (
        _network(scheduler, workers) as network,
        network.dmoe.deploy(model, replicas=replicas, progress=False) as deployed,
    ):
        job = deployed.submit(
            prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed
        )
        if stream and not as_json:
            sys.stdout.write(prompt)
            for piece in job.stream():
                sys.stdout.write(piece.text or "")
                sys.stdout.flush()
            sys.stdout.write("\n")
            return
        completion = job.result()
    if not as_json:
        sys.stdout.write(f"{prompt}{completion}\n")
        return
    _print(
        {
            "text": completion.text,
            "token_ids": completion.token_ids,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.usage.prompt_tokens,
            "completion_tokens": completion.usage.completion_tokens,
            "rows": completion.usage.rows,
            "tokens_per_s": completion.timing.tokens_per_s,
        }
    )


@app.command()
def workers(
    scheduler: Scheduler = None,
    count: Annotated[int, typer.Option("--workers", min=1, help="To start when there is no --scheduler.")] = 2,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show the workers of a network."""
    with _network(scheduler, count) as network:
        found = network.workers
        if as_json:
            _print(found.to_frame().to_dict(orient="records"))
        else:
            sys.stdout.write(f"{found!r}\n")
            if getattr(network, "cluster", None) is not None:
                sys.stderr.write(
                    "These were started for this look, and end with it. --scheduler, or RIOS_URL, names a network.\n"
                )


@app.command()
def models(scheduler: Scheduler = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Show the model that comes with rios and what the hosts of --scheduler, or of a gateway, serve."""
    from rios import demo
    from rios.client.where import find
    from rios.dmoe.examined import examine
    from rios.words.config import settings

    manifest = examine(demo.path(), None, timeout_s=settings().control_timeout_s).manifest
    rows: list[dict[str, Any]] = [
        {
            "model": "demo",
            "architecture": manifest.model_type,
            "layers": len(manifest.layers),
            "experts": sum(layer.num_experts for layer in manifest.layers),
            "bytes": manifest.total_bytes,
            "hosts": "",
        }
    ]
    if scheduler:
        from rios.services.network import connect

        with connect(scheduler) as network:
            rows += network.deployed()
    elif (place := find()) is not None:
        with place.connect() as remote:
            rows += [_served(model.placement) for model in remote.models]
    if as_json:
        _print(rows)
        return
    from rios.words.display import text_table

    sys.stdout.write(text_table(list(rows[0]), [list(row.values()) for row in rows]) + "\n")


def _served(placement: Placement) -> dict[str, Any]:
    """A model behind a gateway, which does not say of which architecture it is."""
    return {
        "model": placement.model,
        "architecture": "",
        "layers": len(placement.holders),
        "experts": sum(len(hosts) for layer in placement.holders for hosts in layer),
        "bytes": sum(placement.bytes_by_host.values()),
        "hosts": " ".join(placement.bytes_by_host),
    }


@app.command()
def doctor(verbose: Verbose = False) -> None:
    """Look at this machine: what rios finds, and what to do about what is missing."""
    from rios.services.doctor import examine

    worst = 0
    for finding in examine():
        worst = max(worst, not finding.good)
        sys.stdout.write(f"{'ok     ' if finding.good else 'MISSING'}  {finding.what}: {finding.said}\n")
    raise typer.Exit(worst)


PANELS = {
    "Begin here": "generate models workers doctor",
    "A network for others": "up gateway login logout deploy undeploy backup restore certs",
    "Who may do what": "roles limits token users audit",
    "Applications": "apply apps app open logs events scale pause resume restart rollback delete exec secrets rotate "
    "org-secrets org-secret snapshots snapshot volumes",
    "Money": "wallet usage costs invoice refund price-book discounts discount settle claim reconcile prove export "
    "verify govern",
    "Reports": "report",
}
"""The commands as `rios --help` shows them."""


def _arrange(app: typer.Typer) -> None:
    """Give each command its place in the help."""
    places = {name: (panel, at) for panel, names in PANELS.items() for at, name in enumerate(names.split())}
    order = list(PANELS)

    def place(one: Any) -> tuple[int, int]:
        panel, at = places.get(one.name or one.callback.__name__.replace("_", "-"), (None, 0))
        one.rich_help_panel = panel
        return (len(order) if panel is None else order.index(panel)), at

    app.registered_commands.sort(key=place)
    app.registered_groups.sort(key=place)


_arrange(app)


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def _version(wanted: bool) -> None:
    if wanted:
        import rios

        sys.stdout.write(f"rios {rios.__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    verbose: Verbose = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Which one this is.")
    ] = False,
) -> None:
    """Run mixture-of-experts models on pooled machines."""
    if not verbose:
        for library in ("rios", "distributed"):
            logging.getLogger(library).setLevel(logging.CRITICAL)


def main() -> None:
    """The entry point: errors of rios are one line on standard error and exit code 1."""
    try:
        app()
    except RiosError as error:
        line, _, more = str(error).partition("\n")
        if "--verbose" in sys.argv:
            sys.stderr.write(f"error: {line}\n{more}")
        elif more.strip():  # what a process wrote before it ended: the last line is the reason
            sys.stderr.write(f"error: {line} {more.strip().splitlines()[-1].strip()} (--verbose shows all of it)\n")
        else:
            sys.stderr.write(f"error: {line}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
