"""The parameters of a request, without those that an endpoint refuses."""

from __future__ import annotations

from typing import Any

from prooftune.chat_client.failures import CLIENT_ERROR, RequestFailed
from prooftune.chat_client.types import ChatRequest, EndpointSettings


class RequestParameters:
    """What an endpoint accepts, learnt from its refusals.

    Attributes:
        refused: names of parameters that the endpoint refused.
        accepted: whether it has answered a request, so that no refusal is expected any more.
    """

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.accepted = False

    def values(self, request: ChatRequest, settings: EndpointSettings) -> dict[str, Any]:
        """The parameters to send with a request, by name."""
        values = dict[str, Any]()
        # Newer models of OpenAI know the limit only by its new name.
        limit = "max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"
        values[limit] = settings.max_tokens
        if "temperature" not in self.refused:
            values["temperature"] = settings.temperature
        if "top_logprobs" in request and "logprobs" not in self.refused:
            values |= {"logprobs": True, "top_logprobs": request["top_logprobs"]}
        return values

    def leave_out(self, failure: RequestFailed, left_out: set[str]) -> bool:
        """Whether the failure names a parameter that was sent and can be left out or renamed.

        Args:
            failure: of an attempt.
            left_out: parameters that the attempt left out; requests on the way at the same time may
                have learnt of more since.
        """
        if failure.reason != CLIENT_ERROR:
            return False
        for parameter in ("max_tokens", "temperature", "logprobs"):
            if parameter in failure.detail and parameter not in left_out:
                self.refused.add(parameter)
                return True
        return False
