"""One query to Prometheus, in a thread: what is sent, what is accepted, what a failure is called.

Imported only where there is a Prometheus, because of what its client imports.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from llm_operator.observe.prometheus import (
    MetricsUnavailable,
    PrometheusConfig,
    Sample,
    no_answer_within,
)

LARGEST_ANSWER: Final = 64 << 20
"""Bytes. 3,000 pods take about 3 MB."""
CHUNK: Final = 1 << 16
LONGEST_ERROR: Final = 200


class _Session(requests.Session):
    """Follows no redirect (the token must not travel), reads no more and no longer than it should.

    The environment's proxies and netrc do not count: netrc would replace the token.
    """

    def __init__(self, config: PrometheusConfig) -> None:
        super().__init__()
        self._seconds = config.timeout_seconds
        self.trust_env = False
        self.verify = str(config.ca_file) if config.ca_file else True

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """An answer with status 200, read to its end. MetricsUnavailable if there is none."""
        deadline = time.monotonic() + self._seconds
        kwargs |= {"allow_redirects": False, "stream": True}
        with super().request(*args, **kwargs) as answer:
            content = b"".join(self._chunks(answer, deadline))
        if answer.status_code != 200:
            raise MetricsUnavailable(
                f"Prometheus answers {answer.status_code}{_complaint(content)}"
            )
        whole = requests.Response()
        whole.status_code, whole.raw = answer.status_code, BytesIO(content)
        return whole

    def _chunks(self, answer: requests.Response, deadline: float) -> Iterator[bytes]:
        """As they come: a time-out of the socket alone lets a slow drip go on for ever."""
        size = 0
        while chunk := answer.raw.read1(CHUNK, decode_content=True):
            size += len(chunk)
            if size > LARGEST_ANSWER:
                raise MetricsUnavailable(f"more than {LARGEST_ANSWER >> 20} MiB of an answer")
            if time.monotonic() > deadline:
                raise MetricsUnavailable(no_answer_within(self._seconds))
            yield chunk


def ask(config: PrometheusConfig, promql: str) -> list[Sample]:
    """The instant vector that the query gives now. Raises only MetricsUnavailable."""
    try:
        with PrometheusConnect(
            url=config.url.rstrip("/"),
            headers=_headers(config),
            session=_Session(config),
            retry=Retry(0, read=False),
            timeout=config.timeout_seconds,
        ) as client:
            # Others that speak this protocol would leave out what they cannot reach; half is wrong.
            limits = {"timeout": f"{config.timeout_seconds:g}s", "partial_response": "false"}
            return [_sample(element) for element in client.custom_query(promql, params=limits)]
    except MetricsUnavailable:
        raise
    except Exception as error:
        raise MetricsUnavailable(_why(error, config)) from error


def _headers(config: PrometheusConfig) -> dict[str, str]:
    headers = {"Cache-Control": "no-cache", "Accept-Encoding": "identity"}
    if config.token_file is not None:
        try:
            token = config.token_file.read_text().strip()
        except (OSError, UnicodeError):
            token = ""
        if not token:
            raise MetricsUnavailable("the file of the token for Prometheus cannot be read")
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _sample(element: dict[str, Any]) -> Sample:
    """TypeError, KeyError or ValueError if it is not of an instant vector."""
    at, value = element["value"]
    return Sample(element["metric"], float(value), float(at))


def _why(error: Exception, config: PrometheusConfig) -> str:
    """In words for a person. Never with the error's own text: it holds the address."""
    if isinstance(error, requests.Timeout):
        return no_answer_within(config.timeout_seconds)
    if isinstance(error, requests.JSONDecodeError):
        return "what answers for Prometheus does not speak JSON"
    if isinstance(error, KeyError | TypeError | ValueError) and not isinstance(error, OSError):
        return "the answer is no instant vector of Prometheus"
    root = _root(error)
    if isinstance(root, ssl.SSLError):
        reason = getattr(root, "verify_message", "") or root.reason
        return f"no TLS with Prometheus: {reason}"
    if isinstance(root, TimeoutError):
        return no_answer_within(config.timeout_seconds)
    if isinstance(root, OSError) and root.strerror:
        return f"no connection with Prometheus: {root.strerror}"
    if isinstance(error, requests.RequestException | HTTPError):
        return f"no connection with Prometheus ({type(root).__name__})"
    return f"Prometheus cannot be asked ({type(error).__name__})"


def _root(error: BaseException) -> BaseException:
    """What it all came from."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _complaint(content: bytes) -> str:
    """What Prometheus says of a query that it cannot answer, where it does."""
    try:
        said = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(said).split())[:LONGEST_ERROR]}"
