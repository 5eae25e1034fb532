"""`vllm serve`, here or on another machine: rollouts over HTTP, shared by several trainers and by the processes of one.

Adapters are loaded and unloaded by the server's own calls. What travels by HTTP is a path: the adapter's files lie in a
directory that trainer and server both see. Of several processes the first sends the adapters, since all have the same, and each
asks for the completions of its own rows.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rlhf_lib import parallel
from rlhf_lib.args import InputError
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.models.loading import resolve_name
from rlhf_lib.samplers.connection import Connection, Refused, Unreachable
from rlhf_lib.samplers.exchange import INSTEAD, VERSIONS, Completion, Request
from rlhf_lib.samplers.outside import OutsideSampler, agreed, max_lora_rank, refuse_unfit

CONNECTIONS = 128  # requests of one process that are under way together; the server batches them
OURS_ALONE = {  # else the server would take them from the model's generation settings
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class VllmServerSampler(OutsideSampler):
    """A policy's rollouts by a vLLM server that is running already.

    Args:
        model: a policy with adapters, on the base model that the server serves.
        url: where the server listens.
        directory: where adapters are written for the server, at a path that it sees too; None: the temporary directory.
        timeout: seconds to wait for an answer.

    Raises:
        InputError: no server there, or one that serves another model, takes no adapters or gives other log-probabilities.
    """

    def __init__(
        self,
        model: TransformerWithLora,
        url: str = "http://127.0.0.1:8000",
        directory: str | os.PathLike | None = None,
        timeout: float = 600.0,
    ):
        refuse_unfit(model, "vllm-server")
        self.connection, self.directory = Connection(url, timeout), directory
        self.command = (
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {resolve_name(model.base.name)} --enable-lora "
            f"--max-lora-rank {max_lora_rank(model)} --logprobs-mode processed_logprobs"
        )
        self.adapters_sent, self.run = 0, parallel.gather_lists([uuid.uuid4().hex[:12]])[0]
        self.served, self.context = agreed(self.ask_what_is_served)
        self.check_agreement(model)

    def __str__(self) -> str:
        return f"{self.connection.server} (model {self.served})"

    def ask_what_is_served(self) -> tuple[str, int | None]:
        """The server's base model, and most tokens of prompt and completion."""
        where = f"sampler_url={self.connection.url!r}"
        try:
            answer = self.connection.ask("/v1/models")
        except Unreachable as error:
            raise InputError(
                f"no server answers at {where} ({error.reason}); correct it, or start one: {self.command}; {INSTEAD}"
            ) from None
        try:
            base = next(card for card in answer["data"] if card.get("parent") is None)
            return str(base.get("root", base["id"])), base.get("max_model_len")
        except (TypeError, KeyError, AttributeError, StopIteration):
            raise InputError(f"what answers at {where} is no vLLM server; start one: {self.command}; {INSTEAD}") from None

    @contextmanager
    def adapter_of(self, model: TransformerWithLora) -> Iterator[str]:
        """The name under which the server has the adapters, inside only; made of run and rollout, so that none comes twice."""
        self.adapters_sent += 1
        name = f"rlhf-{self.run}-{self.adapters_sent}"
        with ExitStack() as sending:
            agreed(lambda: sending.enter_context(self.loaded(model, name)) if parallel.is_first() else None)
            yield name

    @contextmanager
    def loaded(self, model: TransformerWithLora, name: str) -> Iterator[None]:
        """Write the adapters, have the server load them, and in the end forget them."""
        try:
            if self.directory is not None:
                Path(self.directory).mkdir(parents=True, exist_ok=True)
            written = tempfile.TemporaryDirectory(prefix="rlhf-adapter-", dir=self.directory)
        except OSError as error:
            raise InputError(
                f"sampler_directory={str(self.directory)!r} cannot be written to ({error}); give a directory that can, on a "
                "file system that the server sees too"
            ) from None
        with written as directory:
            os.chmod(directory, 0o755)  # the server may run as somebody else
            self.load(name, model.save_pretrained(directory).resolve())
            try:
                yield
            finally:
                with suppress(InputError):  # a server that is gone holds nothing
                    self.connection.ask("/v1/unload_lora_adapter", {"lora_name": name})

    def load(self, name: str, directory: Path) -> None:
        """Have the server load an adapter, or say what it lacks."""
        try:
            self.connection.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})
        except Refused as refusal:
            if "no adapter found" in refusal.text.lower():
                raise InputError(
                    f"{self} finds no adapter in {directory}; give --sampler-directory, a directory that it sees under the "
                    "same path, such as one on a shared file system"
                ) from None
            reason = "it takes none while it runs" if refusal.text == "Not Found" else refusal.text
            raise InputError(
                f"{self} does not load adapters of {self.command.split()[3]} ({reason}); start it as: {self.command}; {INSTEAD}"
            ) from None

    def generate(self, adapter: str, requests: list[Request], options: dict[str, Any]) -> list[Completion]:
        """All completions in the order of the requests, of which many are under way together."""
        if not requests:
            return []
        shared = {**options, **OURS_ALONE, "model": adapter, "return_token_ids": True}
        pool = ThreadPoolExecutor(min(CONNECTIONS, len(requests)))
        try:
            answers = list(pool.map(lambda request: self.complete(request, shared), requests))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure, wait for those under way only
        return [completion for answer in answers for completion in answer]

    def complete(self, request: Request, shared: dict[str, Any]) -> list[Completion]:
        """One request's completions."""
        body = {**shared, "prompt": request.prompt_ids, "n": request.count, "seed": request.seed}
        answer = self.connection.ask("/v1/completions", body)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            found = [Completion(c["token_ids"], c["logprobs"]["token_logprobs"], c["finish_reason"]) for c in choices]
        except (TypeError, KeyError):
            found = []
        if len(found) != request.count or any(completion.token_ids is None for completion in found):
            raise InputError(
                f"{self} gave no token ids and log-probabilities of {request.count} completions; its version may not be "
                f"{VERSIONS}; {INSTEAD}"
            )
        return found
