"""`octavo serve` under load: throughput by number of clients, and every answer against one that was made alone.

A server of its own is started. First each of a set of requests (texts of different lengths, greedy and drawn) is made
alone; then 1, 16 and more clients make them in a random order for a while, all streams, through the official client.
With the most clients, some leave in the middle of an answer and one reads slowly. An answer that differs in text,
ending or counts is reported, and at the end no slot may be taken.

    python benchmarks/serving.py                                  64 clients for 2 minutes; 5 minutes in all
    python benchmarks/serving.py small --clients 8 --seconds 20   another model, less load
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai

SENTENCE = "The printer set the type, inked it, and pulled the press; the binder folded, gathered and sewed."
CLIENTS = (1, 16)
LEAVERS = 10
"""One answer in so many is left in the middle, where clients leave."""


@dataclass(frozen=True)
class Request:
    """What is asked: a text to go on from, how, and for how many tokens."""

    prompt: str
    temperature: float
    seed: int
    tokens: int


@dataclass(frozen=True)
class Answer:
    """What came, and how many seconds its first piece took."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    first: float

    def same(self, other: Answer) -> bool:
        """Whether two answers are equal in all but time."""
        return (self.text, self.finish, self.prompt_tokens, self.tokens) == (
            other.text,
            other.finish,
            other.prompt_tokens,
            other.tokens,
        )


@dataclass
class Load:
    """What some clients got in a while."""

    clients: int
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    left: int = 0
    different: list[tuple[Request, Answer]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def tokens_a_second(self) -> float:
        """Generated tokens of finished answers."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    def row(self, alone: float) -> str:
        """A line of the table; `alone` is the throughput of one client."""
        first = [answer.first for answer in self.answers]
        cells = (
            self.clients,
            f"{self.seconds:.0f}",
            len(self.answers),
            self.left,
            f"{self.tokens_a_second:.1f}",
            f"{self.tokens_a_second / alone:.2f}",
            f"{statistics.median(first):.2f}",
            f"{max(first):.2f}",
            len(self.different),
            len(self.errors),
        )
        return f"| {' | '.join(map(str, cells))} |"


HEADS = ("clients", "s", "answers", "left", "tokens/s", "× one", "median s to first", "longest", "different", "errors")


def requests(count: int, tokens: int) -> list[Request]:
    """Requests of different lengths, half of them greedy; the same each time."""
    order, words = random.Random(0), SENTENCE.split()
    return [
        Request(
            f"Chapter {number + 1}. {' '.join(order.choices(words, k=order.randint(4, 60)))}",
            0.0 if number % 2 else 0.8,
            number,
            order.randint(tokens // 2, tokens),
        )
        for number in range(count)
    ]


async def ask(client: openai.AsyncOpenAI, model: str, asked: Request, leave_after: int = 0, pause: float = 0) -> Answer:
    """Stream an answer, or the beginning of it; `pause` seconds between chunks make a slow reader."""
    began = time.monotonic()
    first, chunks, text, finish, usage = 0.0, 0, "", "", None
    stream: Any = await client.completions.create(
        model=model,
        prompt=asked.prompt,
        temperature=asked.temperature,
        seed=asked.seed,
        max_tokens=asked.tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    async with stream:
        async for chunk in stream:
            first = first or time.monotonic() - began
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.text
                finish = choice.finish_reason or finish
            chunks += 1
            if chunks == leave_after:
                break
            await asyncio.sleep(pause)
    return Answer(text, finish, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0, first)


async def load(
    client: openai.AsyncOpenAI, model: str, expected: dict[Request, Answer], clients: int, seconds: float, rough: bool
) -> Load:
    """Let clients ask in a random order until the time is over, each answer to its end."""
    result = Load(clients)
    began = time.monotonic()

    async def one(number: int) -> None:
        order = random.Random(number)
        pause = 0.2 if rough and number == 0 else 0
        while time.monotonic() - began < seconds:
            asked = order.choice(list(expected))
            leave = order.randint(1, 8) if rough and order.randrange(LEAVERS) == 0 else 0
            try:
                answer = await ask(client, model, asked, leave, pause)
            except openai.OpenAIError as error:
                result.errors.append(str(error))
                continue
            if not answer.finish:
                result.left += 1
                continue
            result.answers.append(answer)
            if not answer.same(expected[asked]):
                result.different.append((asked, answer))

    await asyncio.gather(*(one(number) for number in range(clients)))
    result.seconds = time.monotonic() - began
    return result


@contextlib.contextmanager
def server(model: str, slots: int, queue: int, arithmetic: str) -> Iterator[str]:
    """A server in a process of its own, and its URL."""
    command = [sys.executable, "-m", "octavo.cli", "serve", model, "--port", "0"]
    command += ["--slots", str(slots), "--queue", str(queue), "--context", "1024"]
    command += ["--arithmetic", arithmetic]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"listens on (\S+)", line)
        if found is None:
            sys.exit(line)
        try:
            yield found[1]
        finally:
            process.terminate()


def taken_slots(url: str) -> float:
    """What the server says of its slots."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/metrics") as response:
        found = re.search(r"^octavo_active_slots (\S+)", response.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def measure(url: str, options: argparse.Namespace) -> int:
    """Print the table; the number of errors and of answers that differ."""
    asked = requests(options.requests, options.tokens)
    wrong = 0
    limits = {"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 600}
    async with openai.AsyncOpenAI(**limits) as client:
        model = (await client.models.list()).data[0].id
        expected = {request: await ask(client, model, request) for request in asked}
        print(f"| {' | '.join(HEADS)} |\n|{'--:|' * len(HEADS)}")
        alone = 0.0
        for clients in (*CLIENTS, options.clients):
            most = clients == options.clients
            seconds = options.seconds if most else options.seconds / 4
            result = await load(client, model, expected, clients, seconds, rough=most)
            alone = alone or result.tokens_a_second
            print(result.row(alone), flush=True)
            wrong += len(result.different) + len(result.errors)
            for request, answer in result.different[:3]:
                print(f"different: {request}\n  {expected[request]}\n  {answer}")
            for error in result.errors[:3]:
                print(f"error: {error}")
    await asyncio.sleep(1)
    taken = taken_slots(url)
    print(f"slots taken at the end: {taken:.0f}")
    return wrong + int(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="with the most clients; a quarter with fewer")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of the longest answer")
    parser.add_argument("--requests", type=int, default=24, help="different ones")
    parser.add_argument("--arithmetic", choices=("exact", "int8"), default="exact")
    options = parser.parse_args()
    with server(options.model, options.slots, 2 * options.clients, options.arithmetic) as url:
        wrong = asyncio.run(measure(url, options))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
