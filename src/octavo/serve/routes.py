"""The paths of the server."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from octavo.serve.answers import unless_left
from octavo.serve.replies import ChatReply, CompletionReply, Reply
from octavo.serve.schemas import ChatRequest, CompletionRequest
from octavo.serve.service import Service, unknown_model
from octavo.serve.streaming import EventStream

router = APIRouter()


def _service(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(_service)]


@router.get("/health")
async def health(service: ServiceOf) -> Response:
    """200 while requests are served, 503 once the engine has failed."""
    status, word = (200, "ok") if service.healthy else (503, "failed")
    return JSONResponse({"status": word}, status)


@router.get("/metrics")
async def metrics(service: ServiceOf) -> Response:
    """Counters in Prometheus's text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models")
async def models(service: ServiceOf) -> dict[str, Any]:
    """The one model that is served."""
    return {"object": "list", "data": [_model(service)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, service: ServiceOf) -> dict[str, Any]:
    """What is known of a model."""
    if name != service.model.name:
        raise unknown_model(name, service.model.name)
    return _model(service)


@router.post("/v1/completions")
async def complete(body: CompletionRequest, request: Request, service: ServiceOf) -> Response:
    """Go on from a text or from tokens."""
    return await _answer(body, CompletionReply(uuid.uuid4().hex, body.model, int(time.time())), request, service)


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request, service: ServiceOf) -> Response:
    """Answer a conversation."""
    return await _answer(body, ChatReply(uuid.uuid4().hex, body.model, int(time.time())), request, service)


async def _answer(body: CompletionRequest | ChatRequest, reply: Reply, request: Request, service: Service) -> Response:
    answer = await service.open(body)
    try:
        if body.stream:
            # Before the status is sent, so that a prompt which the engine refuses gets a status of its own.
            first = await unless_left(request, answer.next())
            return EventStream(answer, first, reply, body.include_usage)
        whole = await unless_left(request, answer.rest())
        return JSONResponse(reply.whole(whole.text, str(whole.finish), answer.usage(whole)))
    except BaseException:
        # Also where the server ends this task; a stream closes its answer itself.
        answer.close()
        raise


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model.name,
        "object": "model",
        "created": service.started,
        "owned_by": "octavo",
        "context_length": service.model.context,
    }
