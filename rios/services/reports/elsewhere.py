"""Reports executed on a worker of the network, not on the gateway's machine: a job asks nobody for anything."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from rios.reporting.runner import Done, Execute, Job, run_job

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

_SLACK_S = 120.0
"""For the printing of the page, and for a worker to begin."""


def on_workers(client: Client) -> Execute:
    """What executes jobs on any Dask worker; on this machine where there is none."""

    def execute(job: Job) -> Done:
        if not client.scheduler_info()["workers"]:
            return run_job(job)
        future = client.submit(run_job, job, pure=False, retries=0)
        try:
            done: Done = future.result(timeout=job.timeout_s + _SLACK_S)
        except TimeoutError:
            future.cancel()  # type: ignore[no-untyped-call]
            done = Done(state="failed", files={}, error="the worker did not end it in time", cpu_ns=0, runtime="")
        return replace(done, runtime=f"{done.runtime} on a worker".strip())

    return execute
