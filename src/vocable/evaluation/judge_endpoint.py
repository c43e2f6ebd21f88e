"""Ask a language model behind an OpenAI-compatible address: one message, one reply, patience within limits.

    POST {base_url}/chat/completions   {"model", "messages", "temperature", "max_tokens"}

The key is read from the environment when a request is made, travels in its header, and is written nowhere: neither to
disk nor into messages. Redirects are not followed, since they would carry it elsewhere.
"""

from __future__ import annotations

import json
import os
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

import requests

from vocable.errors import ConfigError, ServiceError

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Answers that may be different the next time; others will not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """Address of a service, and how to ask it."""

    base_url: str
    """Address of the service, up to and with /v1, e.g. http://localhost:8000/v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the service's key, which itself is written nowhere."""
    temperature: float = 0.0
    """Temperature of the replies."""
    max_tokens: int = 300
    """Longest reply of the service."""
    timeout_seconds: float = 60.0
    """Longest wait for the service: for connecting, and for data each time."""
    num_retries: int = 3
    """Attempts after the first."""
    backoff_seconds: float = 1.0
    """Wait before the first retry; doubled for each further one."""

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"base_url is {self.base_url!r}; it must begin with http:// or https:// and name a host.")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "base_url holds a user, a password or a query. Results name the address, so secrets must not be in it: "
                "put the key into an environment variable and name that with api_key_env."
            )
        for name, good, want in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("timeout_seconds", self.timeout_seconds > 0, "above 0"),
            ("num_retries", self.num_retries >= 0, "0 or more"),
            ("backoff_seconds", self.backoff_seconds >= 0, "0 or more"),
        ):
            if not good:
                raise ConfigError(f"judge.{name} is {getattr(self, name)}; it must be {want}.")


def ask(config: EndpointConfig, model: str, message: str) -> dict[str, Any]:
    """Send one message to a model and return the service's answer, as JSON.

    Raises:
        ConfigError: the environment variable for the key is not set.
        ServiceError: the service refuses; or it could not be reached, was too slow or failed in every attempt; or its
            answer is not JSON with a reply in it.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": message}],
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    url = f"{config.base_url.rstrip('/')}/chat/completions"
    key = _api_key(config)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    problem = ""
    for attempt in range(config.num_retries + 1):
        if attempt:
            time.sleep(config.backoff_seconds * 2 ** (attempt - 1))
        try:
            answer = requests.post(
                url,
                json=body,
                headers=headers,
                auth=lambda request: request,  # else requests would put a password from ~/.netrc there
                timeout=config.timeout_seconds,
                allow_redirects=False,
            )
        except requests.Timeout:
            problem = f"no answer within {config.timeout_seconds:g} s"
            continue
        except requests.RequestException as error:
            problem = f"not reachable: {error}"
            continue
        if answer.status_code == requests.codes.ok:
            return _checked(answer.content, url)
        said = answer.text[:400].strip()
        problem = f"HTTP {answer.status_code} {answer.reason}: {said.replace(key, '***') if key else said}"
        if answer.status_code not in RETRIED:
            raise ServiceError(f"{url} refused the request for {model!r}: {problem}")
    raise ServiceError(
        f"{url} did not answer for {model!r} in {config.num_retries + 1} attempts; the last: {problem}. Replies "
        "so far are kept: run the same command again to go on, with a longer timeout if it was too slow."
    )


def reply_text(answer: dict[str, Any]) -> str:
    """The text of the reply in a service's answer; "" where the model said nothing."""
    return answer["choices"][0]["message"].get("content") or ""


def _checked(content: bytes, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(content)
        reply_text(answer)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = content[:200].decode("utf-8", "replace")
        raise ServiceError(
            f"{url}: the answer is not that of an OpenAI-compatible service: {shown!r}. Does base_url end in /v1?"
        ) from error
    return answer


def _api_key(config: EndpointConfig) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(f"The environment variable {config.api_key_env} is not set; the judge's key is read from it.")
    return key
