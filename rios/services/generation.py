"""A deployed model as its user holds it: generate, stream, submit, placement."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, Self, overload

from rios.billing.pricing import Host
from rios.billing.usage import Work
from rios.dmoe.completion import Completion, Piece, Timing, Usage
from rios.dmoe.deployment import Deployment
from rios.dmoe.generator import Order
from rios.dmoe.job import Job
from rios.dmoe.params import SamplingParams, check_timeout
from rios.services.charging import Charging, work_of
from rios.services.edges import edge
from rios.services.jobs import Jobs, JobView
from rios.services.prompts import count_of, max_price_of, one_of, params_of, prompts_of
from rios.services.tab import Asked
from rios.services.views import Placement
from rios.words.display import Shown
from rios.words.errors import InvalidRequest, NetworkClosed, RiosError
from rios.words.ids import Address

Prompt = str | Sequence[int]


class Owners(Protocol):
    """Who is paid for the work of the host of a name, and what it asks."""

    def __call__(self, name: str) -> Address:
        """The owner's address."""

    def ask_bp(self, name: str) -> int:
        """In basis points of the price book's prices."""


class Model(Shown):
    """A deployed model. Use it as a context manager, or `close` it, to free the hosts."""

    def __init__(
        self,
        deployment: Deployment,
        on_close: Callable[[Model], None],
        *,
        charging: Charging,
        owners: Owners,
        jobs: Jobs,
        network: object,
    ) -> None:
        """jobs: where its requests are remembered. network: lives for as long as the model does."""
        self._deployment = deployment
        self._network = network
        self._charging = charging
        self._owners = owners
        self._jobs = jobs
        self._work = work_of(deployment.name, deployment.manifest)
        self._on_close = on_close
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        manifest = self._deployment.manifest
        experts = sum(layer.num_experts for layer in manifest.layers)
        state = "closed" if self._closed else f"on {len(self._deployment.members)} hosts"
        return f"<Model {self.name!r} {manifest.model_type}, {experts} experts x {self._deployment.replicas} {state}>"

    def _table(self) -> tuple[tuple[str, str], list[tuple[str, object]]]:
        manifest = self._deployment.manifest
        return ("model", self.name), [
            ("architecture", manifest.model_type),
            ("layers", len(manifest.layers)),
            ("experts", sum(layer.num_experts for layer in manifest.layers)),
            ("copies of each", self._deployment.replicas),
            ("context", f"{manifest.context_length} tokens"),
            ("hosts", "closed" if self._closed else ", ".join(sorted(self._deployment.members))),
        ]

    @property
    def name(self) -> str:
        """The name it was deployed under."""
        return self._deployment.name

    @property
    def jobs(self) -> Jobs:
        """The jobs of its network: `model.submit` and `generate` add to them."""
        return self._jobs

    def widget(self) -> Any:
        """A prompt and its answer, live in the notebook: speed, cost, hosts and their load, and a stop button."""
        return edge("widgets").of_model(self)

    @property
    def work(self) -> Work:
        """What it asks of hosts for each position: what its price is made of."""
        return self._work

    def hosts(self) -> dict[str, Host]:
        """Its hosts as pricing sees them, by name: who is paid, of which class they are, and what they ask."""
        owners, members = self._owners, self._deployment.members.items()
        return {
            name: Host(name, owners(name), str(member.info.get("device", "cpu")).partition(":")[0], owners.ask_bp(name))
            for name, member in list(members)
        }

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._deployment.manifest.context_length

    def tokens(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt, each checked to be within the vocabulary. Raises InvalidRequest."""
        return self._ids(prompt if isinstance(prompt, str) else list(prompt))

    def charged_to(self, charging: Charging) -> Model:
        """The same deployed model, whose requests another account pays for."""
        other = copy.copy(self)
        other._charging = charging
        return other

    @property
    def copies(self) -> int:
        """How many copies of each expert its hosts have, or will soon; hot experts may have more."""
        return self._deployment.replicas

    @property
    def under_way(self) -> int:
        """Requests of this process that have not ended, those that wait for a place among them."""
        return len(self._deployment.generator.jobs)

    @property
    def hosts_count(self) -> int:
        """How many hosts serve it."""
        return len(self._deployment.members)

    def trunk_stats(self) -> dict[str, Any]:
        """What the trunk that serves says of itself: running, waiting, tokens so far ...; empty while there is none."""
        return self._deployment.trunk_stats()

    def want_copies(self, copies: int) -> None:
        """Have so many copies of each expert, and with more than one a stand-by trunk, from soon on; at most as many as
        there are hosts. Requests go on meanwhile, and no token is another one for that. Raises InvalidRequest,
        NetworkClosed."""
        self._open()
        self._deployment.want_copies(min(count_of("copies", copies) or 1, self.hosts_count))

    @property
    def placement(self) -> Placement:
        """Who holds what now, with load; `.explain()` says why. Raises `NetworkClosed` when the model was closed."""
        self._open()
        return Placement.of(self._deployment)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer (transformers), or `InvalidRequest` where it has none."""
        return self._deployment.tokenizing.load()

    @property
    def has_chat_template(self) -> bool:
        """Whether the checkpoint says how a conversation is written."""
        return self._deployment.tokenizing.has_chat_template

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as `generate` has them. Raises `InvalidRequest` where there is no tokenizer."""
        return self._deployment.tokenizing.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, with that of special ones. Raises `InvalidRequest` where there is no tokenizer."""
        return self._deployment.tokenizing.decode(ids, special=True)

    @overload
    def generate(self, prompt: str, **params: Any) -> Completion: ...
    @overload
    def generate(self, prompt: list[int], **params: Any) -> Completion: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], **params: Any) -> list[Completion]: ...
    def generate(self, prompt: Any, **params: Any) -> Any:
        """Answer one prompt, or a list of them at the same time.

        prompt: text, or token ids; a list of texts or of lists of ids gives a list of completions.
        params: max_new_tokens=64, temperature=0 (greedy), top_k, top_p, min_p, repetition_penalty, seed, stop,
            stop_token_ids, logprobs, ignore_eos: see `rios.dmoe.params.SamplingParams`; `timeout` in seconds;
            `max_price`, such as "0.01 ROS": the most that each prompt pays. BudgetExceeded where it could cost more.

        The highest price is held before, the actual one posted before this returns, the rest released. A request of
        more than RIOS_HOLD_STEP_TOKENS new tokens is held for step by step: when money runs out it pauses, goes on by
        itself within seconds of a deposit or a larger budget, and ends after RIOS_HOLD_GRACE_S with what it has
        (`finish_reason` "balance").

        Raises InvalidRequest, InsufficientBalance, BudgetExceeded, QueueFull, InsufficientMemory, ExpertsUnavailable,
        TrunkLost, DeadlineExceeded.
        """
        timeout, most = check_timeout(params.pop("timeout", None)), max_price_of(params)
        prompts, one = prompts_of(prompt)
        started = self._started([self._prepared(ids, params) for ids in prompts], most)
        try:
            answers = [job if isinstance(job, Completion) else job.result(timeout) for job in started]
        except BaseException:
            for job in started:
                if isinstance(job, Job):
                    job.cancel()
            raise
        return answers[0] if one else answers

    def stream(self, prompt: Prompt, **params: Any) -> Iterator[Piece]:
        """Pieces of the answer as they come. Leaving the loop, or dropping what this returns, cancels the rest."""
        timeout, most = check_timeout(params.pop("timeout", None)), max_price_of(params)
        (job,) = self._started([self._prepared(one_of(prompt, "stream"), params)], most)
        if isinstance(job, Completion):
            return iter(())
        return _Answer(job, timeout)

    def submit(self, prompt: Prompt, *, request_id: str | None = None, **params: Any) -> Job:
        """Start one request and return at once: `job.result(timeout=...)`, `job.cancel()`, `job.status`.

        request_id: what it is called in the ledger, never used before; made up without.

        A job whose status is "paused" waits for money: see `generate`.
        """
        most = max_price_of(params)
        ids, wanted = self._prepared(one_of(prompt, "submit"), params)
        if wanted.max_new_tokens == 0:
            raise InvalidRequest("max_new_tokens is 0; a submitted request generates at least 1 token")
        return self._submitted([(ids, wanted)], most, request_id)[0]

    def chat(self, messages: Sequence[dict[str, str]], **params: Any) -> Completion:
        """Answer a conversation through the checkpoint's chat template.

        Raises InvalidRequest where it has none, or refuses these messages; and as `generate`.
        """
        return self.generate(self.chat_ids(messages), **params)

    def chat_ids(self, messages: Sequence[dict[str, str]], *, plain: bool = False) -> list[int]:
        """The prompt of a conversation, by the checkpoint's chat template.

        plain: where it has none, write `role: content` lines and end with `assistant:`, from where a base model goes
        on; else that is InvalidRequest.
        """
        if self.has_chat_template:
            from jinja2 import TemplateError

            try:
                ids = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
            except TemplateError as error:
                raise InvalidRequest(f"the chat template of {self.name} refuses these messages: {error}") from error
        elif not plain:
            raise InvalidRequest(f"{self.name} has no chat template; give its prompt as text to generate()")
        else:
            text = "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
            ids = self.encode(text)
        return [int(token) for token in ids]

    def _started(
        self, prepared: Sequence[tuple[list[int], SamplingParams]], max_price_wei: int | None
    ) -> Sequence[Job | Completion]:
        """All of them at once; parameters are the same for all."""
        if any(params.max_new_tokens == 0 for _, params in prepared):
            text = "" if self._deployment.tokenizing.present else None
            timing = Timing(None, 0.0, None)
            return [Completion(text, (), "length", Usage(len(ids), 0, 0, 0, 0), timing) for ids, _ in prepared]
        return self._submitted(prepared, max_price_wei)

    def _submitted(
        self,
        prepared: Sequence[tuple[list[int], SamplingParams]],
        max_price_wei: int | None,
        request_id: str | None = None,
    ) -> list[Job]:
        """Hold the highest prices, all or none, then send the requests, which begin together."""
        charging = self._charging
        asked = [
            Asked(request_id or charging.request_id(), len(ids), params.max_new_tokens, max_price_wei)
            for ids, params in prepared
        ]
        tabs = charging.open(asked, self._work, self.hosts)
        try:
            jobs = self._deployment.generator.submit_all(
                [
                    Order(ids, params, one.request_id, tab)
                    for (ids, params), one, tab in zip(prepared, asked, tabs, strict=True)
                ]
            )
        except BaseException:
            for tab in tabs:
                tab.abandon()
            raise
        for job in jobs:
            job.keeps = self  # whoever holds but the request still gets its answer
            self._remember(job, max_price_wei)
        return jobs

    def _remember(self, job: Job, max_price_wei: int | None) -> None:
        """Show a request in `net.jobs`."""
        model, prompt, params = self, list(job.prompt), asdict(job.params)
        self._jobs.add(
            job,
            owner=self._charging.user,
            model=self.name,
            decode=self._decoded,
            again=lambda: model.submit(prompt, max_price=max_price_wei, **params),
            cost=self._cost,
            hosts=lambda: tuple(sorted(model._deployment.members)),
        )

    def _decoded(self, ids: Sequence[int]) -> str:
        """Text of tokens, or their ids where there is no tokenizer."""
        if not self._deployment.tokenizing.present:
            return " ".join(map(str, ids))
        return self._deployment.tokenizing.decode(ids, special=True)

    def _cost(self, view: JobView) -> tuple[int, bool]:
        """What a request has cost: posted once it is, before that about what the tokens so far will."""
        try:
            if view.posted:
                rows = self._charging.ledger().usage(request_id=view.id)
                return sum(usage.amount_wei - usage.refunded_wei for usage in rows), True
            likely = self._charging.estimate(
                self._work, self.hosts(), prompt_tokens=view.prompt_tokens, max_new_tokens=view.tokens
            )
        except RiosError:
            return view.cost_wei, False  # the ledger does not answer now: what was known stays
        return likely.expected_wei, False

    def _prepared(self, prompt: str | list[int], params: dict[str, Any]) -> tuple[list[int], SamplingParams]:
        """Prompt and parameters, checked before anything is sent."""
        manifest = self._deployment.manifest
        ids = self._ids(prompt)
        wanted = params_of(params)
        if wanted.stop and not self._deployment.tokenizing.present:
            raise InvalidRequest(f"{self.name} has no tokenizer: use stop_token_ids instead of stop")
        nothing = type(wanted.max_new_tokens) is int and wanted.max_new_tokens == 0
        (replace(wanted, max_new_tokens=1) if nothing else wanted).validate(manifest.vocab_size)
        if len(ids) + wanted.max_new_tokens > manifest.context_length:
            raise InvalidRequest(
                f"{len(ids)} prompt tokens and {wanted.max_new_tokens} new ones exceed the context of "
                f"{manifest.context_length}; shorten the prompt or max_new_tokens"
            )
        return ids, wanted

    def _ids(self, prompt: str | list[int]) -> list[int]:
        """The token ids of a prompt, each within the vocabulary."""
        self._open()
        if isinstance(prompt, str):
            if not self._deployment.tokenizing.present:
                raise InvalidRequest(f"{self.name} has no tokenizer: give token ids instead of text")
            ids = self._deployment.tokenizing.encode(prompt)
        else:
            ids = prompt
        if not ids:
            raise InvalidRequest("the prompt is empty; it needs at least one token")
        vocab = self._deployment.manifest.vocab_size
        bad = next((token for token in ids if not 0 <= token < vocab), None)
        if bad is not None:
            raise InvalidRequest(f"token id {bad} is outside 0..{vocab - 1}")
        return ids

    def _open(self) -> None:
        if self._closed:
            raise NetworkClosed(f"the model {self.name!r} was closed; deploy it again")

    def close(self) -> None:
        """Free the model on every host. Running requests are cancelled."""
        if not self._closed:
            self._closed = True
            self._deployment.close()
            self._on_close(self)


class _Answer(Iterator[Piece]):
    """A job's pieces for who has nothing but them: a generator would not know that it was dropped before it began."""

    def __init__(self, job: Job, timeout: float | None) -> None:
        self._job = job
        self._pieces = job.stream(timeout)

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Cancel what has not come yet."""
        if not self._job.ended:
            self._job.cancel()

    def __del__(self) -> None:
        self.close()
