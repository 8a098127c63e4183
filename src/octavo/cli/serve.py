"""`octavo serve`: answer over HTTP as OpenAI does."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.base.errors import OctavoError
from octavo.base.units import parse_size
from octavo.cli.arithmetic import ArithmeticOption
from octavo.cli.keeping import KeepingOption


def serve(
    model: Annotated[str, typer.Argument(help="A model that octavo compressed, or any of the Llama family.")],
    host: Annotated[str, typer.Option(help="The address to listen on; others than loopback let others in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What requests call the model. Default: the last part of MODEL.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Answers that are made at a time.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait for a slot; more get 429.")] = 64,
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of a prompt and its answer. Default: 4096, or as many as the model can."),
    ] = None,
    arithmetic: ArithmeticOption = "exact",
    keep: KeepingOption = "resident",
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="The longest that text of one of several streams waits for more of it; 0 sends each token at once.",
        ),
    ] = 0.1,
    max_body: Annotated[str, typer.Option(metavar="SIZE", help="The largest request, e.g. 1MiB.")] = "1MiB",
    api_key: Annotated[
        str | None, typer.Option(envvar="OCTAVO_API_KEY", help="What clients must send. Default: nothing.")
    ] = None,
) -> None:
    """Answer over HTTP as OpenAI does: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics.

    Ctrl-C or SIGTERM lets running answers finish first; Ctrl-C once more ends them.
    """
    try:
        from octavo.serve.application import Limits, create_application
        from octavo.serve.running import Server, address_of, bind, is_loopback
    except ModuleNotFoundError as error:
        raise OctavoError(f"the server needs {error.name}", 'pip install "octavo[serve]"') from error
    from octavo.serve.opening import open_model

    limits = Limits(queue, parse_size(max_body), api_key, wait)
    with bind(host, port) as bound:
        served = open_model(model, slots, context, name, arithmetic, keep)

        def started() -> None:
            room = f"{slots} slots of {served.context} tokens, {queue} may wait"
            typer.echo(f"octavo: {served.name} listens on {address_of(bound)}/v1 ({room})", err=True)
            if api_key is None and not is_loopback(bound):
                typer.echo("octavo: whoever reaches this address may use it; see --api-key", err=True)

        Server(create_application(served, limits), started).serve_on(bound)
    typer.echo("octavo: stopped", err=True)
