"""JSON over HTTP to a server, with errors that say what to do."""

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any

from rlhf_lib.args import InputError
from rlhf_lib.samplers.exchange import CONTINUE


class Refused(InputError):
    """The server answered that it will not; `text` is what it said."""

    def __init__(self, server: str, status: int, text: str):
        super().__init__(f"{server} answered {status} ({text}); its log says more; {CONTINUE}")
        self.text = text


class Unreachable(InputError):
    """Nobody answers, for `reason`."""

    def __init__(self, server: str, error: Exception):
        self.reason = f"{type(error).__name__}: {error}"
        super().__init__(f"{server} is gone ({self.reason}); start it again: {CONTINUE}")


class Connection:
    """A server's address and how long to wait for it.

    Requests go straight there, whatever proxies the environment names. VLLM_API_KEY, where it is set, is sent along, as
    `vllm serve` asks for it.

    Args:
        url: where the server listens, such as http://127.0.0.1:8000; an ending /v1 is left out.
        timeout: seconds without an answer after which one is given up.
    """

    def __init__(self, url: str, timeout: float):
        self.url, self.timeout = url.rstrip("/").removesuffix("/v1"), timeout
        self.server = f"the vLLM server at {self.url}"
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            self.headers["Authorization"] = f"Bearer {key}"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's answer to a GET of `path`, or with a `body` to a POST: read as JSON, or else the text.

        Raises:
            Refused: it answered with a status of 400 or more.
            Unreachable: there is no server, or none any more.
            InputError: no answer in time.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                return as_json(response.read())
        except urllib.error.HTTPError as error:
            raise Refused(self.server, error.code, message_in(as_json(error.read()))) from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise InputError(
                    f"{self.server} gave no answer within sampler_timeout={self.timeout:g} seconds; raise --sampler-timeout, "
                    f"or ask for less at once (--batch-size, --gen-len); {CONTINUE}"
                ) from None
            raise Unreachable(self.server, reason if isinstance(reason, Exception) else error) from None


def as_json(text: bytes) -> Any:
    """The JSON in an answer, or else its text."""
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def message_in(answer: Any) -> str:
    """What an error's answer says, in one line: vLLM puts it into error.message, its framework into detail."""
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        answer = error.get("message", error.get("detail", answer)) if isinstance(error, dict) else error
    return " ".join(str(answer).split())[:500]
