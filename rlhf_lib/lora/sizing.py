"""What training costs in memory, by arithmetic: the numbers that are trained, and the bytes held from step to step.

Activations come on top: they depend on batch and sequence length, and adapters do little about them.
"""

from collections.abc import Iterable


def lora_parameter_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Trained numbers of the adapters on linear maps of these shapes (d_in, d_out): the sum of rank x (d_in + d_out).

    A has d_in x rank numbers and B has rank x d_out (Hu et al. 2021, section 4.2).
    """
    return sum(rank * (d_in + d_out) for d_in, d_out in shapes)


def training_bytes(base_parameters: int, adapter_parameters: int | None = None, *, bytes_per_number: int = 4) -> int:
    """Bytes held from step to step: weights, gradients, AdamW's two moments, and the reference policy's weights.

    What is trained is held four times, as weight, gradient and two moments, all of the weight's format. Adapters are
    float32: 4 bytes a number. The base model's numbers take `bytes_per_number` bytes (4 in float32, 2 in bfloat16).

    - Full fine-tuning (`adapter_parameters` None): everything is trained, and the reference is a frozen copy of the weights.
    - LoRA: the adapters are trained; the base model is only kept, and is the reference policy as it stands.
    """
    if adapter_parameters is None:
        return base_parameters * bytes_per_number * (4 + 1)
    return base_parameters * bytes_per_number + adapter_parameters * 4 * 4
