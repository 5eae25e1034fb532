"""Samplers besides the library's own decode loop: vLLM in the trainer's process, or as a server that several trainers share."""

from rlhf_lib.args import SamplerArgs
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.samplers.outside import OutsideSampler
from rlhf_lib.samplers.vllm_engine import VllmSampler
from rlhf_lib.samplers.vllm_server import VllmServerSampler

__all__ = ["OutsideSampler", "VllmSampler", "VllmServerSampler", "sampler_of"]


def sampler_of(args: SamplerArgs, model: TransformerWithLora) -> OutsideSampler | None:
    """The sampler that a run's arguments ask for; None: the library's own."""
    if args.sampler == "vllm":
        return VllmSampler(model, args.sampler_memory, args.seed)
    if args.sampler == "vllm-server":
        return VllmServerSampler(model, args.sampler_url, args.sampler_directory, args.sampler_timeout)
    return None
