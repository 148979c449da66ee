"""`%rios` and `%%rios`: what a network has, and answers to a cell, in a notebook that has run `%load_ext rios`."""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.display import display

import rios
from rios.words.errors import RiosError

WORDS = ("status", "wallet", "jobs", "workers", "models", "costs", "widget")
# Ten updates a second are all that a person sees.
_LEAST_S = 0.1


class _Text:
    """An answer as far as it has come: text alone, so that nothing in it is taken for markup."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A mistake ends the cell, not the kernel."""
        raise UsageError(f"%%rios: {message}\n{self.format_usage()}")


def _parser() -> _Parser:
    parser = _Parser(prog="%%rios", add_help=False)
    parser.add_argument("model", nargs="?", default="demo", help="the name of a deployed model, or what deploy() takes")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--into", default=None, help="a variable for the completion")
    return parser


class RiosMagics:
    """Finds the network of the notebook: the variable `net`, else the newest open one, else a local one is made."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def line(self, line: str) -> Any:
        """`%rios [status | wallet | jobs | workers | models | costs | widget]`."""
        words = shlex.split(line) or ["status"]
        if len(words) > 1 or words[0] not in WORDS:
            raise UsageError(f"%rios takes one of {', '.join(WORDS)}; %%rios MODEL answers the cell below it")
        net = self._network()
        shown: dict[str, Any] = {
            "status": lambda: net,
            "wallet": lambda: net.wallet,
            "jobs": lambda: net.jobs,
            "workers": lambda: net.workers,
            "models": lambda: list(net.models),
            "costs": lambda: net.billing.costs(by="day"),
            "widget": net.widget,
        }
        return self._said(shown[words[0]])

    def cell(self, line: str, cell: str) -> None:
        """`%%rios [MODEL] [--max-new-tokens N] [--temperature T] [--top-p P] [--seed S] [--into NAME]`.

        Answers the cell, shown as it comes; the completion goes into the variable NAME.
        """
        given = _parser().parse_args(shlex.split(line))
        prompt = cell.rstrip("\n")
        wanted = {"max_new_tokens": given.max_new_tokens, "temperature": given.temperature, "top_p": given.top_p}

        def answer() -> Any:
            job = self._model(given.model).submit(prompt, seed=given.seed, **wanted)
            return self._stream(job, prompt)

        found = self._said(answer)
        if given.into is not None and found is not None:
            self._user()[given.into] = found

    def _stream(self, job: Any, prompt: str) -> Any:
        """Show what has come, ten times a second at most, and in a terminal the whole of it; an interrupt cancels."""
        text, shown_at = "", 0.0
        shown: Any = display
        live = hasattr(self._shell, "kernel")
        handle = shown(_Text(prompt), display_id=True) if live else None
        for piece in job.stream():
            text += piece.text if piece.text is not None else f" {' '.join(map(str, piece.token_ids))}"
            if handle is not None and time.monotonic() - shown_at > _LEAST_S:
                shown_at = time.monotonic()
                handle.update(_Text(prompt + text))
        if handle is not None:
            handle.update(_Text(prompt + text))
        else:
            shown(_Text(prompt + text))
        return job.result()

    def _said(self, work: Any) -> Any:
        """A mistake in one line, as the library says it, without a page of its insides."""
        try:
            return work()
        except RiosError as error:
            raise UsageError(f"{type(error).__name__}: {error}") from error

    def _user(self) -> dict[str, Any]:
        found: dict[str, Any] = self._shell.user_ns
        return found

    def _network(self) -> Any:
        user = self._user()
        kinds = (rios.Network, rios.RemoteNetwork)
        known = [user.get("net"), *reversed(list(user.values()))]
        found = next((one for one in known if isinstance(one, kinds) and not one._closed), None)
        if found is None:
            found = user["net"] = rios.local()
        return found

    def _model(self, name: str) -> Any:
        net = self._network()
        return next((one for one in net.models if one.name == name), None) or net.dmoe.deploy(name)


def register(shell: Any) -> None:
    """What `%load_ext rios` does."""
    magics = RiosMagics(shell)
    shell.register_magic_function(magics.line, "line", "rios")
    shell.register_magic_function(magics.cell, "cell", "rios")
