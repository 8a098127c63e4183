"""What the official client gets: whole answers and streams, completions and chat, each equal to the engine's own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from hash_engine import HashEngine, NumberTokenizer, answer_of
from hash_server import NAME, STOP, Running

from octavo.decoding.sampling import Sampling
from octavo.serve.application import Limits

TOKENIZER = NumberTokenizer()
Start = Callable[..., Running]


def expected(prompt: str, tokens: int, seed: int) -> tuple[str, str, int]:
    """Text, ending and tokens of an answer by an engine of its own."""
    sampling = Sampling(temperature=1.0, seed=seed)
    made = answer_of(TOKENIZER(prompt).input_ids, sampling, tokens, frozenset({STOP}))
    stopped = len(made) < tokens
    return TOKENIZER.decode(made), "stop" if stopped else "length", len(made) + stopped


def seed_that_stops(prompt: str, tokens: int) -> int:
    return next(seed for seed in range(10_000) if 2 < expected(prompt, tokens, seed)[2] < tokens)


def streamed(client: openai.OpenAI, prompt: str, tokens: int, seed: int) -> tuple[str, str, int]:
    """The same through a stream of the server."""
    text, finish, count = "", "", 0
    options = {"include_usage": True}
    stream = client.completions.create(
        model=NAME, prompt=prompt, max_tokens=tokens, seed=seed, stream=True, stream_options=options
    )
    for chunk in stream:
        if chunk.usage is not None:
            assert chunk.choices == []
            count = chunk.usage.completion_tokens
        for choice in chunk.choices:
            text += choice.text
            finish = choice.finish_reason or finish
    return text, finish, count


def test_models_are_listed(serve: Start) -> None:
    client = serve().client()
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "octavo"


@pytest.mark.parametrize("stops", [False, True])
def test_a_completion(serve: Start, stops: bool) -> None:
    seed = seed_that_stops("abc", 60) if stops else 3
    answer = serve().client().completions.create(model=NAME, prompt="abc", max_tokens=60 if stops else 5, seed=seed)
    text, finish, tokens = expected("abc", 60 if stops else 5, seed)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, finish)
    assert finish == ("stop" if stops else "length")
    assert answer.usage is not None
    assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": 3,
        "completion_tokens": tokens,
        "total_tokens": 3 + tokens,
    }


def test_a_streamed_completion(serve: Start) -> None:
    client = serve().client()
    seed = seed_that_stops("abc", 60)
    assert streamed(client, "abc", 60, seed) == expected("abc", 60, seed)
    assert streamed(client, "abc", 7, 3) == expected("abc", 7, 3)


def test_prompts_may_be_tokens_or_lists_of_one(serve: Start) -> None:
    client = serve().client()
    tokens = TOKENIZER("abc").input_ids
    prompts = ("abc", ["abc"], tokens, [tokens])
    texts = [
        client.completions.create(model=NAME, prompt=prompt, max_tokens=5, seed=1).choices[0].text for prompt in prompts
    ]
    assert texts == [expected("abc", 5, 1)[0]] * 4


def test_a_chat_goes_through_the_template(serve: Start) -> None:
    client = serve().client()
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what "}, {"type": "text", "text": "now?"}]},
    ]
    prompt = "<system>be brief<user>what now?<assistant>"
    whole = client.chat.completions.create(model=NAME, messages=messages, max_completion_tokens=6, seed=2)
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == expected(prompt, 6, 2)[0]
    assert whole.choices[0].finish_reason == "length"
    # What the client was given, it may send back.
    client.chat.completions.create(
        model=NAME, messages=[*messages, whole.choices[0].message, {"role": "user", "content": "go on"}], max_tokens=1
    )


def test_a_streamed_chat(serve: Start) -> None:
    client = serve().client()
    prompt = "<user>hi<assistant>"
    seed = seed_that_stops(prompt, 60)
    with client.chat.completions.stream(
        model=NAME,
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=60,
        seed=seed,
        stream_options={"include_usage": True},
    ) as stream:
        roles = [e.chunk.choices[0].delta.role for e in stream if e.type == "chunk" and e.chunk.choices]
        whole = stream.get_final_completion()
    assert roles[0] == "assistant"
    assert set(roles[1:]) == {None}
    assert whole.usage is not None
    choice = whole.choices[0]
    assert (choice.message.content, choice.finish_reason, whole.usage.completion_tokens) == expected(prompt, 60, seed)


def test_a_chat_may_take_what_is_left_of_the_context(serve: Start) -> None:
    client = serve(HashEngine(context=60)).client()
    messages = [{"role": "user", "content": "hi"}]
    prompt = "<user>hi<assistant>"
    seed = next(seed for seed in range(100) if expected(prompt, 60 - len(prompt), seed)[1] == "length")
    answer = client.chat.completions.create(model=NAME, messages=messages, seed=seed)
    assert answer.usage is not None
    assert answer.usage.total_tokens == 60


def test_temperature_zero_is_greedy_and_no_seed_is_a_new_draw(serve: Start) -> None:
    client = serve().client()

    def draw(**options: object) -> str:
        return client.completions.create(model=NAME, prompt="abc", max_tokens=6, **options).choices[0].text

    assert draw(temperature=0, seed=1) == draw(temperature=0, seed=2) == draw(temperature=0)
    assert draw() != draw()
    assert draw(seed=-1) == draw(seed=-1) != draw(seed=1)


def test_own_sampling_options_reach_the_engine(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sampling] = []
    admit = HashEngine.admit

    def noting(self: HashEngine, prompt: object, sampling: Sampling, *rest: object) -> int:
        seen.append(sampling)
        return admit(self, prompt, sampling, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(HashEngine, "admit", noting)
    extra = {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}
    serve().client().completions.create(
        model=NAME, prompt="a", temperature=0.7, top_p=0.9, seed=11, extra_body=extra, max_tokens=1
    )
    assert seen == [Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.1, seed=11)]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_an_answer(serve: Start, stream: bool) -> None:
    client = serve().client()
    whole = expected("abc", 40, 4)[0]
    stop = whole[61:66]
    options = {"model": NAME, "prompt": "abc", "max_tokens": 40, "seed": 4, "stop": [stop, "never"]}
    if stream:
        chunks = [chunk.choices[0] for chunk in client.completions.create(**options, stream=True)]
        text, finish = "".join(choice.text for choice in chunks), chunks[-1].finish_reason
    else:
        choice = client.completions.create(**options).choices[0]
        text, finish = choice.text, choice.finish_reason
    assert (text, finish) == (whole[: whole.index(stop)], "stop")


def test_sixteen_clients_get_what_each_would_get_alone(serve: Start) -> None:
    client = serve(HashEngine(slots=6, delay=0.0005), Limits(queue=16)).client()
    asked = [(f"client {number}", 40 + number, number) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda request: streamed(client, *request), asked * 3))
    assert answers == [expected(*request) for request in asked * 3]
