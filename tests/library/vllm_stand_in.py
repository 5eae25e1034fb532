"""Takes vLLM's place, as a package and as a server: notes what it is told, and samples from the adapter that it is sent.

What it answers is what vLLM 0.32.0 answered to the same; tests/library/test_real_vllm.py asks that one.
"""

import json
import sys
import threading
import types
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from rlhf_lib.models import TransformerWithLora
from rlhf_lib.rollouts import Decoder, decode, get_logprobs


@dataclass
class SamplingParams:
    """The fields of vLLM's that we set, by their names there."""

    n: int
    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    skip_special_tokens: bool
    detokenize: bool = False

    def __post_init__(self):
        assert self.temperature > 0 or self.n == 1, "n must be 1 when using greedy sampling"
        assert self.ignore_eos
        assert self.logprobs == 0
        assert not self.detokenize


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Logprob:
    logprob: float


@dataclass
class Output:
    index: int
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]]
    finish_reason: str


@dataclass
class Answer:
    outputs: list[Output]


@dataclass
class Calls:
    """What the stand-in was told, one entry a rollout, and how its log-probabilities are to differ from its model's.

    By `gap` nats, or in being of the `raw` logits.
    """

    options: dict[str, Any] = field(default_factory=dict)
    prompts: list[list[list[int]]] = field(default_factory=list)
    parameters: list[list[SamplingParams]] = field(default_factory=list)
    adapters: list[LoRARequest] = field(default_factory=list)
    gap: float = 0.0
    raw: bool = False

    def clear(self):
        """Forget the rollout that proves, when a sampler is made, that it is the policy."""
        for told in (self.prompts, self.parameters, self.adapters):
            told.clear()


def sample(model: TransformerWithLora, prompt: list[int], parameters: SamplingParams, calls: Calls) -> list[Output]:
    """The completions of one request."""
    ids = torch.tensor([prompt] * parameters.n)
    sampling = {
        "temperature": parameters.temperature,
        "top_k": None if parameters.top_k == -1 else parameters.top_k,
        "top_p": None if parameters.top_p == 1 else parameters.top_p,
        "generator": None if parameters.seed is None else torch.Generator().manual_seed(parameters.seed),
    }
    with model.merged():
        decoder = Decoder(model.base_model.original_model, torch.ones_like(ids))
        decoded = decode(decoder, ids, parameters.max_tokens, parameters.stop_token_ids, 0, **sampling)
    logprobs_of = decoded.sampler_logprobs + calls.gap
    if calls.raw:
        whole = torch.cat([ids, decoded.tokens], dim=1)
        logprobs_of = get_logprobs(model.forward_with_value_head(whole)[0], whole, ids.shape[1])
    outputs = []
    for i, count in enumerate(decoded.mask.sum(dim=1).int().tolist()):
        tokens, logprobs = decoded.tokens[i, :count].tolist(), logprobs_of[i, :count].tolist()
        steps = [{token: Logprob(logprob)} for token, logprob in zip(tokens, logprobs, strict=True)]
        outputs.append(Output(i, tokens, steps, "stop" if tokens[-1] in parameters.stop_token_ids else "length"))
    return outputs[::-1]  # in no order that one could rely on


def package(calls: Calls) -> list[types.ModuleType]:
    """The package's modules."""

    class LLM:
        def __init__(self, **options):
            calls.options = options
            torch.manual_seed(options["seed"])  # as the real one does in one process

        def generate(self, prompts, sampling_params, *, lora_request, use_tqdm):
            assert not use_tqdm
            assert Path(lora_request.lora_path, "adapter_model.safetensors").is_file()
            calls.prompts.append([prompt["prompt_token_ids"] for prompt in prompts])
            calls.parameters.append(sampling_params)
            calls.adapters.append(lora_request)
            model = TransformerWithLora.from_adapter(lora_request.lora_path, device="cpu")
            return [Answer(sample(model, *one, calls)) for one in zip(calls.prompts[-1], sampling_params, strict=True)]

    whole, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    whole.LLM, whole.SamplingParams, whole.lora = LLM, SamplingParams, lora
    lora.request, request.LoRARequest = request, LoRARequest
    return [whole, lora, request]


def install(monkeypatch: Any, calls: Calls) -> None:
    """Put the package where imports find it."""
    for module in package(calls):
        monkeypatch.setitem(sys.modules, module.__name__, module)


class Handler(BaseHTTPRequestHandler):
    """One request to the server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status: int, content: Any) -> None:
        text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.reply({})

    def do_POST(self):
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: dict[str, Any]) -> None:
        stand_in = self.server.stand_in
        trouble = stand_in.troubles.get(self.path)
        if callable(trouble):
            trouble = trouble(self)
        if trouble is not None:
            status, text = trouble
            return self.answer(status, text if status == 200 else {"error": {"message": text, "type": "", "code": status}})
        route = {
            "/v1/models": stand_in.models,
            "/v1/load_lora_adapter": stand_in.load,
            "/v1/unload_lora_adapter": stand_in.unload,
            "/v1/completions": stand_in.complete,
        }[self.path]
        with stand_in.lock:
            return self.answer(200, route(body))


class Listener(ThreadingHTTPServer):
    """Says nothing when a connection breaks."""

    daemon_threads = True

    def handle_error(self, *words):
        pass


class Server:
    """`vllm serve` on 127.0.0.1; `troubles`, by path, are answers (status, text) in place of the usual, or functions."""

    def __init__(self, calls: Calls, base: str, context: int = 64):
        self.calls, self.base, self.context = calls, base, context
        self.troubles: dict[str, Any] = {}
        self.bodies: list[dict[str, Any]] = []
        self.loaded: dict[str, TransformerWithLora] = {}
        self.lock = threading.Lock()  # merged weights are the model's own
        self.http = Listener(("127.0.0.1", 0), Handler)
        self.http.stand_in = self
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def models(self, body):
        base = {"id": self.base, "root": self.base, "parent": None, "max_model_len": self.context}
        return {"data": [base, *({"id": name, "root": "", "parent": self.base, "max_model_len": None} for name in self.loaded)]}

    def load(self, body):
        name, path = body["lora_name"], body["lora_path"]
        assert name not in self.loaded
        self.loaded[name] = TransformerWithLora.from_adapter(path, device="cpu")
        self.calls.adapters.append(LoRARequest(name, len(self.calls.adapters) + 1, path))
        self.calls.prompts.append([])
        self.calls.parameters.append([])
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body):
        del self.loaded[body["lora_name"]]
        return f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    def complete(self, body):
        self.bodies.append(body)
        assert body["return_token_ids"]
        names = set(SamplingParams.__dataclass_fields__) - {"detokenize"}
        parameters = SamplingParams(**{name: body[name] for name in names})
        self.calls.prompts[-1].append(body["prompt"])
        self.calls.parameters[-1].append(parameters)
        outputs = sample(self.loaded[body["model"]], body["prompt"], parameters, self.calls)
        return {
            "choices": [
                {
                    "index": output.index,
                    "token_ids": output.token_ids,
                    "finish_reason": output.finish_reason,
                    "logprobs": {
                        "token_logprobs": [step[t].logprob for t, step in zip(output.token_ids, output.logprobs, strict=True)]
                    },
                }
                for output in outputs
            ]
        }
