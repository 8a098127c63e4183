"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one server, in a registry of their own.

    Attributes:
        requests: HTTP requests by route and status; 499 is a client that left before its answer began.
        endings: generations by how they ended: stop, length, cancelled, failed.
        prompt_tokens, generated_tokens: tokens that were read and made.
        waiting, active: requests in the queue and in slots, now.
        first_token_seconds: from a request's arrival to its first token.
        step_seconds: one step of the engine, a token for every active slot.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("octavo_requests", "HTTP requests.", ["route", "status"], registry=registry)
        self.endings = Counter("octavo_generations", "Generations by ending.", ["ending"], registry=registry)
        self.prompt_tokens = Counter("octavo_prompt_tokens", "Tokens of admitted prompts.", registry=registry)
        self.generated_tokens = Counter("octavo_generated_tokens", "Tokens made.", registry=registry)
        self.waiting = Gauge("octavo_queue_length", "Requests that wait for a slot.", registry=registry)
        self.active = Gauge("octavo_active_slots", "Slots in use.", registry=registry)
        self.first_token_seconds = Histogram(
            "octavo_time_to_first_token_seconds", "From arrival to first token.", buckets=SECONDS, registry=registry
        )
        self.step_seconds = Histogram(
            "octavo_step_seconds", "One step of the engine.", buckets=SECONDS, registry=registry
        )

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
