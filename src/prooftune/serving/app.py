"""The ASGI application: routes, error responses, and the middleware around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from prooftune.bundle.manifest import label_threshold
from prooftune.errors import nearest
from prooftune.serving import chat, schemas
from prooftune.serving.asgi import App
from prooftune.serving.errors import INTERNAL, HTTPError
from prooftune.serving.handlers import answer_questions, classify_texts, parse_rows
from prooftune.serving.keys import require_api_key
from prooftune.serving.limits import Limits, ServerState, enforce_limits
from prooftune.serving.registry import BASE_SUFFIX, ServedBundle, find_model
from prooftune.serving.telemetry import Log, Metrics, logger, with_telemetry
from prooftune.version import __version__

PLAYGROUND_FOLDER = Path(__file__).parent / "playground"
SHARED_STYLE = Path(__file__).parents[1] / "look.css"
MAX_REPORTED_PROBLEMS = 3
"""Largest number of validation problems in one error message."""
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}

_DESCRIPTION = """Labels and answers of fine-tuned models.
Errors have OpenAI's format: `{"error": {"message", "type", "param", "code"}}`.
If the server requires API keys, send `Authorization: Bearer KEY`."""


@dataclass(frozen=True, slots=True)
class Options:
    """Server options.

    Attributes:
        limits: limits per request and per queue.
        keys: accepted API keys; empty for access without a key.
        log_texts: whether log lines contain the texts of requests.
        log: writes log lines.
    """

    limits: Limits = field(default_factory=Limits)
    keys: Sequence[str] = ()
    log_texts: bool = False
    log: Log = field(default_factory=logger)


def create_app(
    served: Mapping[str, ServedBundle], options: Options, activity: ServerState, metrics: Metrics
) -> App:
    """Create the ASGI application.

    Args:
        served: bundles by name.
        options: limits, API keys, logging.
        activity: request counters, which are updated; its `ready` flag admits requests.
        metrics: metrics for ``/metrics``.
    """
    inner = FastAPI(
        title="Prooftune",
        version=__version__,
        description=_DESCRIPTION,
        # FastAPI's own pages load scripts from a CDN, which the content security policy forbids.
        docs_url=None,
        redoc_url=None,
        responses={
            "4XX": {"model": schemas.ErrorResponse},
            "5XX": {"model": schemas.ErrorResponse},
        },
    )
    _add_error_handlers(inner)
    _add_tasks(inner, served, options)
    inner.include_router(chat.router(served, options.limits, options.log_texts))
    _add_probes(inner, activity, metrics)
    _add_pages(inner)
    paths = {str(getattr(route, "path", "")) for route in inner.routes}
    # From the outside in: refused requests are logged, too, and a request without a key is refused
    # before its body is read.
    return with_telemetry(
        require_api_key(enforce_limits(inner, options.limits, activity), options.keys),
        metrics,
        options.log,
        paths,
    )


def _add_tasks(app: FastAPI, served: Mapping[str, ServedBundle], options: Options) -> None:
    limits, texts = options.limits, options.log_texts

    @app.post("/v1/classify", tags=["bundles"], summary="Label texts")
    async def classify(request: Request, body: schemas.ClassifyRequest) -> schemas.ClassifyResponse:
        entry, tuned = find_model(served, body.model, classifies=True)
        rows = parse_rows(entry, body.texts, limits)
        if body.explain and len(rows) > 1:
            raise HTTPError(400, "explain takes a single text", "unsupported", param="explain")
        if body.explain and entry.several:
            raise HTTPError(
                400,
                "explain is not available for bundles of several labels per text: it attributes "
                "the one label of a text",
                "unsupported",
                param="explain",
            )
        results, attributions, _ = await classify_texts(
            request, entry, tuned, rows, explain=body.explain, log_texts=texts
        )
        return schemas.ClassifyResponse(
            model=entry.name if tuned else entry.name + BASE_SUFFIX,
            labels=entry.bundle.manifest["labels"],
            threshold=entry.threshold if tuned else None,
            label_threshold=label_threshold(entry.bundle.manifest),
            results=results,
            words=attributions,
        )

    @app.post("/v1/answer", tags=["bundles"], summary="Answer questions, with sources")
    async def answer(request: Request, body: schemas.AnswerRequest) -> schemas.AnswerResponse:
        entry, tuned = find_model(served, body.model, classifies=False)
        results, _, _ = await answer_questions(
            request, entry, tuned, parse_rows(entry, body.questions, limits), log_texts=texts
        )
        return schemas.AnswerResponse(
            model=entry.name if tuned else entry.name + BASE_SUFFIX, results=results
        )


def _add_probes(app: FastAPI, activity: ServerState, metrics: Metrics) -> None:
    @app.get(
        "/healthz",
        tags=["operation"],
        summary="Liveness",
        response_class=PlainTextResponse,
    )
    async def health() -> str:
        return "ok"

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Readiness",
        response_class=PlainTextResponse,
    )
    async def ready() -> Response:
        if activity.ready:
            return PlainTextResponse("ready")
        raise HTTPError(503, "the server is shutting down", "stopping", retry_after=2)

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Prometheus metrics",
        response_class=PlainTextResponse,
    )
    async def metrics_text() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return _file_response("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _file_response("docs.html")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return _file_response(name)


@cache
def _load_files() -> dict[str, bytes]:
    """Files of the pages by name; the style sheet starts with the one shared with the report."""
    files = {
        path.name: path.read_bytes()
        for path in PLAYGROUND_FOLDER.iterdir()
        if path.suffix in _MEDIA_TYPES
    }
    files["style.css"] = SHARED_STYLE.read_bytes() + files["style.css"]
    return files


def _file_response(name: str) -> Response:
    content = _load_files().get(name)
    if content is None:
        raise HTTPError(404, "no such page", "not_found")
    # no-cache: a browser checks for new files, so that it shows the pages of an updated server.
    return Response(
        content, media_type=_MEDIA_TYPES[Path(name).suffix], headers={"cache-control": "no-cache"}
    )


def _add_error_handlers(app: FastAPI) -> None:
    """Return every error in OpenAI's format; no message repeats the request's texts."""

    def to_response(error: HTTPError) -> Response:
        return Response(error.body(), error.status, error.headers())

    @app.exception_handler(HTTPError)
    async def on_http_error(_: Request, error: HTTPError) -> Response:
        return to_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # For another content type FastAPI reports a body of the wrong shape, which would mislead.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            return to_response(
                HTTPError(
                    415,
                    "the body should be JSON: send the header Content-Type: application/json",
                    "unsupported_media_type",
                )
            )
        return to_response(_validation_error(error.errors(), _body_fields(request)))

    # `with_telemetry` logs the exception, which Starlette re-raises after this response.
    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return to_response(HTTPError(500, INTERNAL, "internal_error"))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = _no_such_path(request.url.path, _documented_routes(app))
        elif error.status_code == 405 and (allowed := (error.headers or {}).get("Allow")):
            detail = f"this path takes {allowed}"
        reply = to_response(
            HTTPError(
                error.status_code,
                detail,
                {404: "not_found", 405: "method_not_allowed"}.get(
                    error.status_code, "invalid_request"
                ),
            )
        )
        # Such as `Allow` of a 405.
        reply.headers.update(error.headers or {})
        return reply


def _documented_routes(app: FastAPI) -> list[str]:
    """The API's routes, such as ``POST /v1/classify``."""
    # The schema, since `app.routes` holds the routes of an included router as one.
    paths: Mapping[str, Mapping[str, object]] = app.openapi()["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


def _no_such_path(path: str, routes: Sequence[str]) -> str:
    """The error message for a path without a route; names the similar one and all others."""
    known = [route.partition(" ")[2] for route in routes]
    # Most clients leave out the version or write it twice, so that the last parts are compared.
    ends = {route.rpartition("/")[2]: route for route in known if "{" not in route}
    meant = ends.get(path.rstrip("/").rpartition("/")[2])
    hint = f" (did you mean '{meant}'?)" if meant else nearest(path[:100], known)
    return f"no such path{hint}; there are {', '.join(routes)}"


def _body_fields(request: Request) -> list[str]:
    """The fields of the request body that the route takes; empty if it takes none."""
    route = request.scope.get("route")
    body = route.body_field if isinstance(route, APIRoute) else None
    return list(getattr(body.field_info.annotation, "model_fields", ())) if body else []


def _validation_error(errors: Sequence[Any], fields: Sequence[str] = ()) -> HTTPError:
    """The error response for an invalid request body; names the fields.

    Args:
        errors: pydantic's.
        fields: fields of the body, of which an unknown one may be a misspelling.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return HTTPError(
            400,
            f"the body is not JSON: {str(first.get('ctx', {}).get('error', ''))[:100]}",
            "invalid_json",
        )
    problems = "; ".join(
        f"{_field_path(error) or 'body'}: {error['msg']}{_meant_field(error, fields)}"
        for error in errors[:MAX_REPORTED_PROBLEMS]
    )
    more = (
        f" (and {len(errors) - MAX_REPORTED_PROBLEMS} more)"
        if len(errors) > MAX_REPORTED_PROBLEMS
        else ""
    )
    return HTTPError(400, problems + more, "invalid_value", param=_field_path(first))


def _meant_field(error: Any, fields: Sequence[str]) -> str:
    """The field that an unknown one of the body was probably meant to be; all fields if none is
    similar."""
    # Of a nested object the fields are others.
    if error["type"] != "extra_forbidden" or len(error["loc"]) != 2 or not fields:
        return ""
    return nearest(str(error["loc"][1])[:100], fields) or f" (known: {', '.join(fields)})"


def _field_path(error: Any) -> str | None:
    # Names of unknown keys come from the client, so their length is limited.
    return (
        ".".join(str(part) for part in error["loc"] if part != "body")[:100]
        .encode("utf-8", "replace")
        .decode()
        or None
    )
