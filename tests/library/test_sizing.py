"""The arithmetic of benchmarks/arithmetic.py, against published numbers, closed forms, and what a small model really keeps."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arithmetic(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import arithmetic

    return arithmetic


@pytest.fixture
def small(arithmetic, tmp_path, tokenizer):
    """A small Qwen2 in bfloat16, and its entry among the models."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    from rlhf_lib.models import TransformerWithLora

    entry = arithmetic.Model("small", 2, 128, 8, 2, 320, 512, True)
    config = Qwen2Config(
        vocab_size=entry.vocab,
        hidden_size=entry.width,
        intermediate_size=entry.mlp,
        num_attention_heads=entry.heads,
        num_key_value_heads=entry.kv_heads,
        num_hidden_layers=entry.layers,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return entry, TransformerWithLora(tmp_path, rank=4, device="cpu", dtype="bfloat16")


def test_published_parameter_counts(arithmetic):
    counts = [model.parameters for model in arithmetic.MODELS]
    assert counts == [494_032_768, 1_543_714_304, 7_615_616_512]


def test_a_real_model_has_as_many(small):
    entry, model = small
    assert entry.parameters == sum(p.numel() for p in model.base_model_params())
    assert entry.adapters(4) == sum(p.numel() for p in model.lora_params())
    assert entry.layers * entry.adapted == sum(m.weight.numel() for m in model.lora.maps)


def test_activations_are_what_the_backward_pass_keeps(arithmetic, small):
    """Every tensor saved by a pass over 16 completions of one prompt, weights left out."""
    entry, model = small
    rows, prompt, mean = 16, 40, 64
    ids = torch.cat([torch.randint(3, 500, (1, prompt)).repeat(rows, 1), torch.randint(3, 500, (rows, mean))], dim=1)
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, _ = model.forward_with_value_head(ids, logits_to_keep=mean + 1)
    del logits
    job = arithmetic.Job(prompts=1, group=rows, prompt=prompt, gen_len=mean, mean=mean, rank=4)
    computed = arithmetic.Sizing(entry, 1, job).activations(rows)
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(computed, rel=0.1)


def test_closed_forms_of_7b_on_8_gpus(arithmetic):
    case = arithmetic.Sizing(arithmetic.MODELS[-1], 8)
    assert case.job.tokens == 64 * 200 + 1024 * 256
    assert case.cache == 128 * 712 * 2 * 28 * 512 * 2
    assert case.gradient_bytes == 4 * 28 * 16 * (6 * 3584 + 2 * 512 + 3 * (3584 + 18944))
    multiplied = 7_615_616_512 - 152_064 * 3584
    assert case.scoring == pytest.approx(4 * multiplied * 274_944 / 8 / (312e12 * 0.35))
    assert case.learning() == pytest.approx(2 * 4 * multiplied * (128 * 256 + 4 * 8 * 200) / (312e12 * 0.35))
    assert case.learning(checkpointed=True) == pytest.approx(1.5 * case.learning())
    assert case.learning(at_once=4) > case.learning()  # each micro-batch reads its own prompts
    assert case.all_reduce == pytest.approx(8 * 2 * 7 / 8 * case.gradient_bytes / 300e9)


def test_the_micro_batch_is_the_largest_that_fits(arithmetic):
    case = arithmetic.Sizing(arithmetic.MODELS[-1], 8)
    micro = case.micro_batch()
    assert max(case.learning_memory(micro), case.scoring_memory(micro)) < 0.9 * 80e9 < case.learning_memory(2 * micro)
    assert arithmetic.Sizing(arithmetic.MODELS[-1], 1, gpu=arithmetic.Gpu(memory=16e9)).micro_batch() == 0


@pytest.mark.parametrize("index", [0, 1, 2])
def test_rollouts_take_over_at_the_same_number_of_gpus(arithmetic, index):
    job, gpu = arithmetic.Job(num_minibatches=1), arithmetic.Gpu()
    case = arithmetic.Sizing(arithmetic.MODELS[index], 1, job)
    rest = (case.scoring + case.learning()) / arithmetic.crossover(job, gpu)
    assert rest == pytest.approx(job.gen_len * 2 * case.model.multiplied / (gpu.bandwidth * arithmetic.STREAMED))


def test_the_page_is_the_one_on_record(arithmetic):
    """`python benchmarks/sizing.py` writes it."""
    assert (ROOT / "benchmarks" / "results" / "sizing.md").read_text() == arithmetic.page(arithmetic.Gpu())
