"""The application: its routes, and the layers around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from prooftune.serving import chat, schemas
from prooftune.serving.asgi import App
from prooftune.serving.errors import INTERNAL, HTTPError
from prooftune.serving.handlers import labels, parse_rows, replies
from prooftune.serving.keys import require_api_key
from prooftune.serving.limits import Limits, ServerState, enforce_limits
from prooftune.serving.registry import BASE, ServedBundle, find
from prooftune.serving.telemetry import Log, Metrics, logger, with_telemetry
from prooftune.version import __version__

PAGES = Path(__file__).parent / "playground"
LOOK = Path(__file__).parents[1] / "look.css"
SAID = 3
"""Problems of a request that are told at one time."""
_KINDS = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}

_DESCRIPTION = """Labels and answers of fine-tuned models. Errors have OpenAI's shape: `{"error": {"message", "type", "param",
"code"}}`. Where the server was started with keys, send `Authorization: Bearer KEY`."""


@dataclass(frozen=True, slots=True)
class Options:
    """How bundles are served.

    Attributes:
        limits: what a request may ask.
        keys: who may ask; none: everybody.
        log_texts: whether log lines hold the texts that were asked.
        log: where log lines go.
    """

    limits: Limits = field(default_factory=Limits)
    keys: Sequence[str] = ()
    log_texts: bool = False
    log: Log = field(default_factory=logger)


def create_app(
    served: Mapping[str, ServedBundle], options: Options, activity: ServerState, metrics: Metrics
) -> App:
    """The ASGI application.

    Args:
        served: the bundles.
        options: limits, keys, logs.
        activity: is kept up to date, and says whether requests are taken.
        metrics: what ``/metrics`` shows.
    """
    inner = FastAPI(
        title="Prooftune",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        responses={
            "4XX": {"model": schemas.ErrorResponse},
            "5XX": {"model": schemas.ErrorResponse},
        },
    )
    _answer_errors(inner)
    _add_tasks(inner, served, options)
    inner.include_router(chat.router(served, options.limits, options.log_texts))
    _add_probes(inner, activity, metrics)
    _add_pages(inner)
    paths = {str(getattr(route, "path", "")) for route in inner.routes}
    return with_telemetry(
        require_api_key(enforce_limits(inner, options.limits, activity), options.keys),
        metrics,
        options.log,
        paths,
    )


def _add_tasks(app: FastAPI, served: Mapping[str, ServedBundle], options: Options) -> None:
    limits, texts = options.limits, options.log_texts

    @app.post("/v1/classify", tags=["bundles"], summary="Label texts")
    async def classify(
        request: Request, asked: schemas.ClassifyRequest
    ) -> schemas.ClassifyResponse:
        one, tuned = find(served, asked.model, classifies=True)
        rows = parse_rows(one, asked.texts, limits)
        if asked.explain and len(rows) > 1:
            raise HTTPError(400, "explain takes a single text", "unsupported", param="explain")
        found, words, _ = await labels(
            request, one, tuned, rows, explain=asked.explain, log_texts=texts
        )
        return schemas.ClassifyResponse(
            model=one.name if tuned else one.name + BASE,
            labels=one.bundle.manifest["labels"],
            threshold=one.threshold if tuned else None,
            results=found,
            words=words,
        )

    @app.post("/v1/answer", tags=["bundles"], summary="Answer questions, with sources")
    async def answer(request: Request, asked: schemas.AnswerRequest) -> schemas.AnswerResponse:
        one, tuned = find(served, asked.model, classifies=False)
        found, _, _ = await replies(
            request, one, tuned, parse_rows(one, asked.questions, limits), log_texts=texts
        )
        return schemas.AnswerResponse(model=one.name if tuned else one.name + BASE, results=found)


def _add_probes(app: FastAPI, activity: ServerState, metrics: Metrics) -> None:
    @app.get(
        "/healthz",
        tags=["operation"],
        summary="Whether the process lives",
        response_class=PlainTextResponse,
    )
    async def health() -> str:
        return "ok"

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Whether it takes requests",
        response_class=PlainTextResponse,
    )
    async def ready() -> Response:
        if activity.ready:
            return PlainTextResponse("ready")
        raise HTTPError(503, "the server is being stopped", "stopping", retry_after=2)

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
    )
    async def figures() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return _file("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _file("docs.html")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return _file(name)


@cache
def _files() -> dict[str, bytes]:
    """Every file of the pages by its name; the style begins with what the report has, too."""
    files = {path.name: path.read_bytes() for path in PAGES.iterdir() if path.suffix in _KINDS}
    files["style.css"] = LOOK.read_bytes() + files["style.css"]
    return files


def _file(name: str) -> Response:
    content = _files().get(name)
    if content is None:
        raise HTTPError(404, "no such page", "not_found")
    return Response(
        content, media_type=_KINDS[Path(name).suffix], headers={"cache-control": "no-cache"}
    )


def _answer_errors(app: FastAPI) -> None:
    """Every error in one shape; none repeats what was sent."""

    def answered(refused: HTTPError) -> Response:
        return Response(refused.body(), refused.status, refused.headers())

    @app.exception_handler(HTTPError)
    async def refused(_: Request, error: HTTPError) -> Response:
        return answered(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            return answered(
                HTTPError(
                    415,
                    "the body should be JSON: send the header Content-Type: application/json",
                    "unsupported_media_type",
                )
            )
        return answered(_invalid(error.errors()))

    # What goes wrong inside is logged by `with_telemetry`, which is raised to.
    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return answered(HTTPError(500, INTERNAL, "internal_error"))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        reply = answered(
            HTTPError(
                error.status_code,
                str(error.detail),
                {404: "not_found", 405: "method_not_allowed"}.get(
                    error.status_code, "invalid_request"
                ),
            )
        )
        reply.headers.update(error.headers or {})
        return reply


def _invalid(errors: Sequence[Any]) -> HTTPError:
    """What is wrong with a request's body, by its place."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return HTTPError(
            400,
            f"the body is no JSON: {str(first.get('ctx', {}).get('error', ''))[:100]}",
            "invalid_json",
        )
    said = "; ".join(f"{_place(error) or 'body'}: {error['msg']}" for error in errors[:SAID])
    more = f" (and {len(errors) - SAID} more)" if len(errors) > SAID else ""
    return HTTPError(400, said + more, "invalid_value", param=_place(first))


def _place(error: Any) -> str | None:
    # Names of unknown keys are the client's words; they are cut.
    return (
        ".".join(str(part) for part in error["loc"] if part != "body")[:100]
        .encode("utf-8", "replace")
        .decode()
        or None
    )
