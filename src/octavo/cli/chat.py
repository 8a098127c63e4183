"""`octavo chat`: talk to a model in the terminal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavo.base.errors import ModelError
from octavo.cli.arithmetic import ArithmeticOption
from octavo.cli.console import printable
from octavo.cli.keeping import KeepingOption

if TYPE_CHECKING:
    from octavo.serve.conversation import Conversation

COMMANDS = "/reset begins anew, /exit leaves, Ctrl-C stops an answer"


def chat(
    model: Annotated[str, typer.Argument(help="A model that octavo compressed, or any of the Llama family.")],
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is told before the conversation.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="At most so many tokens an answer. Default: what the context has left.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the k likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(max=1.0, help="Draw from the likeliest tokens of this probability.")] = 1.0,
    min_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Drop tokens less likely than this times the likeliest.")
    ] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: make what was said less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draw, where the temperature is above 0.")] = 0,
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of the conversation. Default: 4096, or as many as the model can."),
    ] = None,
    arithmetic: ArithmeticOption = "exact",
    keep: KeepingOption = "resident",
) -> None:
    """Talk to a model. /reset begins anew, /exit leaves, Ctrl-C stops an answer and keeps the conversation.

    Without a terminal, every line of the input is answered, and only answers are printed.
    """
    from octavo.decoding.sampling import Sampling
    from octavo.serve.conversation import Conversation
    from octavo.serve.opening import open_model

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    conversation = Conversation(
        open_model(model, 1, context, arithmetic=arithmetic, keep=keep), sampling, tokens, system
    )
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        typer.echo(f"{model}: {COMMANDS}", err=True)
    for line in _lines(interactive):
        match line.strip():
            case "":
                continue
            case "/exit":
                return
            case "/reset":
                conversation.reset()
            case command if command.startswith("/"):
                typer.echo(f"{command.split()[0]} is no command; {COMMANDS}", err=True)
            case text:
                _print_answer(conversation, text, interactive)


def _lines(interactive: bool) -> Iterator[str]:
    """What the user says, line by line."""
    while True:
        try:
            yield input("> " if interactive else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            typer.echo(f"\n{COMMANDS}", err=True)


def _print_answer(conversation: Conversation, text: str, interactive: bool) -> None:
    try:
        with _noticed_interrupt() as interrupted, closing(conversation.answer(text)) as pieces:
            for piece in pieces:
                typer.echo(printable(piece), nl=False)
                if interrupted.is_set():
                    break
        typer.echo()
        if interrupted.is_set() and not interactive:
            raise KeyboardInterrupt
    except ModelError as error:
        if not interactive:
            raise
        typer.echo(f"octavo: error: {error}", err=True)


@contextmanager
def _noticed_interrupt() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C sets the event and nothing else, so that no step is torn apart; another one ends all."""
    pressed = threading.Event()

    def notice(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, notice)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)
