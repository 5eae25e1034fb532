"""Who samples: the library's own decode loop, vLLM in the trainer's process, or a server that several trainers share."""

from typing import Any

from rlhf_lib.args import SamplerArgs
from rlhf_lib.samplers.outside import OutsideSampler
from rlhf_lib.samplers.own import OwnSampler, Sampler
from rlhf_lib.samplers.vllm_engine import VllmSampler
from rlhf_lib.samplers.vllm_server import VllmServerSampler

__all__ = ["OutsideSampler", "OwnSampler", "Sampler", "VllmSampler", "VllmServerSampler", "sampler_of"]


def sampler_of(args: SamplerArgs, model: Any) -> Sampler:
    """The sampler that a run's arguments ask for."""
    if args.sampler == "vllm":
        return VllmSampler(model, args.sampler_memory, args.seed)
    if args.sampler == "vllm-server":
        return VllmServerSampler(model, args.sampler_url, args.sampler_directory, args.sampler_timeout)
    return OwnSampler()
