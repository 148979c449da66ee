"""A model as a deployment: the same life cycle, and the same model handle."""

from __future__ import annotations

import pytest

import rios
from rios.words.errors import DeploymentFailed, NotFound
from tests.waiting import until

WAIT_S = 120.0


def test_a_model_lives_as_an_application_does() -> None:
    with rios.local(workers=1, threads=1) as network:
        chat = network.deploy.create(name="chat", model="demo")
        chat.wait(timeout=WAIT_S)
        assert chat.model is network.models[0]
        assert len(chat.model.generate("It was", max_new_tokens=3).token_ids) == 3
        assert [event.state for event in chat.events if event.kind == "state" and not event.replica][-1] == "ready"
        assert chat.replicas[0].host.startswith("engine-")
        first = chat.model
        chat.model.close()  # by hand: it is there again
        until(lambda: chat.status == "ready" and network.models and network.models[0] is not first, deadline_s=WAIT_S)
        assert chat.model.generate("It was", max_new_tokens=1).token_ids
        chat.pause()
        until(lambda: not network.models, deadline_s=WAIT_S)
        with pytest.raises(NotFound, match="paused"):
            _ = chat.model
        with pytest.raises(NotFound):
            chat.exec(["true"])
        wrong = network.deploy.create(name="wrong", model="/no/such/directory", restart="never")
        with pytest.raises(DeploymentFailed, match="is not a directory"):
            wrong.wait(timeout=WAIT_S)
        chat.delete()
        assert network.models == ()
