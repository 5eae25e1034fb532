"""The arithmetic of benchmarks/arithmetic.py, against published numbers, closed forms, and what a small model really keeps."""

from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf_lib.engine import Draws, logits
from rlhf_lib.engine.graphs import GraphedReader
from rlhf_lib.engine.packing import pack
from rlhf_lib.engine.trunk import run_trunk
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHead
from rlhf_lib.objectives import token_entropy, token_kl
from rlhf_lib.rollouts import get_logprobs, rollout

VIEWS = {"view", "_unsafe_view", "t", "transpose", "select", "slice", "unsqueeze", "expand", "detach", "split", "empty"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def arithmetic(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import arithmetic

    return arithmetic


ARCHITECTURES = {  # what a small model of each has, by arithmetic.Model's fields
    "llama": {},
    "qwen2": {"has_bias": True},
    "qwen3": {"head_width": 32, "has_head_norms": True},  # heads are wider together than the model
}


@pytest.fixture
def kind():
    """The architecture; a test that is about several names them."""
    return "qwen2"


@pytest.fixture
def entry(arithmetic, kind):
    """A small model among the models."""
    return arithmetic.Model("small", "", 2, 128, 8, 2, 320, 512, **ARCHITECTURES[kind])


@pytest.fixture
def directory(entry, kind, tmp_path, tokenizer):
    """The same as a Hugging Face directory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        vocab_size=entry.vocab,
        hidden_size=entry.width,
        intermediate_size=entry.mlp,
        num_attention_heads=entry.heads,
        num_key_value_heads=entry.kv_heads,
        num_hidden_layers=entry.layers,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **({"head_dim": entry.head_width} if entry.head_width else {}),
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def adapted(directory):
    """Adapters on it, in bfloat16."""
    return TransformerWithLora(directory, rank=4, device="cpu", dtype="bfloat16")


@pytest.fixture
def in_chunks(monkeypatch):
    """Logits never all at once, and one chunk of them."""
    monkeypatch.setattr(logits, "DENSE_NUMBERS", 0)
    monkeypatch.setattr(logits, "CHUNK_NUMBERS", {"cpu": 2**30})


class Ledger(TorchDispatchMode):
    """Counts operations, the bytes a logit that they read and write, and the most that exist at once."""

    def __init__(self, vocab):
        super().__init__()
        self.vocab, self.count, self.traffic, self.peak, self.alive = vocab, 0, 0, 0, {}

    def is_logits(self, value):
        return isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[1] == self.vocab

    def __torch_dispatch__(self, function, types, args=(), options=None):
        result = function(*args, **(options or {}))
        name, returned = function.name().split("::")[1].split(".")[0], tree_leaves(result)
        if name in VIEWS:
            return result
        self.count += 1
        whole = [] if name == "gather" else filter(self.is_logits, tree_leaves((args, options)))
        self.traffic += sum(part.element_size() for part in [*whole, *filter(self.is_logits, returned)])
        for storage in (part.untyped_storage() for part in returned if self.is_logits(part)):
            self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def test_published_parameter_counts(arithmetic):
    counts = [model.parameters for model in arithmetic.MODELS]
    assert counts == [134_515_008, 494_032_768, 596_049_920, 1_543_714_304, 7_615_616_512]
    assert arithmetic.SMOLLM2_1_7B.parameters == 1_711_376_384


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_real_model_has_as_many(entry, adapted):
    assert entry.parameters == sum(p.numel() for p in adapted.base_model_params())
    assert entry.adapters(4) == sum(p.numel() for p in adapted.lora_params())
    assert entry.layers * entry.adapted == sum(m.weight.numel() for m in adapted.lora.maps)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("rank", [4, None])
def test_activations_are_what_the_backward_pass_keeps(arithmetic, entry, directory, rank):
    """Every tensor saved by a pass over 16 completions of one prompt, weights left out."""
    if rank is None:
        model = TransformerWithValueHead(directory, device="cpu")
    else:
        model = TransformerWithLora(directory, rank=rank, device="cpu", dtype="bfloat16")
    rows, prompt, mean = 16, 40, 64
    ids = torch.cat([torch.randint(3, 500, (1, prompt)).repeat(rows, 1), torch.randint(3, 500, (rows, mean))], dim=1)
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fast = model.base.passes.fast
        adapters = {} if rank is None else dict(model.lora.adapters)
        mask = torch.ones_like(ids)
        hidden = run_trunk(fast.weights, pack(ids, mask, mean), adapters)
    assert hidden.requires_grad
    job = arithmetic.Job(prompts=1, group=rows, prompt=prompt, gen_len=mean, mean=mean, rank=rank, num_minibatches=1)
    computed = arithmetic.Sizing(entry, 1, job).activations(rows)
    assert sum(storage.nbytes() for storage in kept.values()) == pytest.approx(computed, rel=0.1)


@pytest.fixture
def drawing_as_on_cuda(monkeypatch):
    """Random numbers by one operation."""
    noise = lambda self, rows, vocab: torch.empty(len(rows), vocab).exponential_()  # noqa: E731
    monkeypatch.setattr(Draws, "noise", noise)


@pytest.mark.usefixtures("drawing_as_on_cuda")
def test_traffic_of_logits_is_what_the_operations_read_and_write(arithmetic, entry, adapted, in_chunks):
    gen = 24
    ids = torch.cat([torch.randint(3, 500, (1, 10)).repeat(8, 1), torch.randint(3, 500, (8, gen))], dim=1)
    with Ledger(entry.vocab) as scoring, torch.no_grad():
        policy, reference = (call(ids, logits_to_keep=gen + 1) for call in (adapted.forward_with_value_head, adapted))
        policy = policy[0]
        for given in (policy, reference):
            get_logprobs(given, ids[:, -gen - 1 :])
        token_kl(policy[:, :-1] / 1.0, reference[:, :-1] / 1.0)
        token_entropy(policy[:, :-1] / 1.0)
    with Ledger(entry.vocab) as learning:
        policy, _ = adapted.forward_with_value_head(ids, logits_to_keep=gen + 1)
        figures = get_logprobs(policy, ids[:, -gen - 1 :]) + token_entropy(policy[:, :-1] / 1.0)
        figures.mean().backward()
    weights = adapted.base.passes.fast.weights
    with Ledger(entry.vocab) as drawing, torch.no_grad():
        hidden = torch.randn(8, entry.width, dtype=torch.bfloat16)
        Draws(8, 1.0, None, None)(weights.unembed(hidden), torch.arange(8), None)
    assert scoring.traffic == pytest.approx(arithmetic.SCORING, rel=0.1)
    assert learning.traffic == pytest.approx(2 * arithmetic.LEARNING, rel=0.1)
    assert drawing.traffic == pytest.approx(arithmetic.DRAWING, rel=0.1)
    assert learning.peak / (8 * gen * entry.vocab) == pytest.approx(arithmetic.CHUNK_BYTES, rel=0.1)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.usefixtures("drawing_as_on_cuda")
def test_kernels_of_a_step_are_its_operations(arithmetic, entry, adapted):
    """Inside what is captured as a graph, and outside of it; most operations are one kernel each."""
    fast, inside = adapted.base.passes.fast, []
    rollout(adapted, ["2+2="] * 4, 8)  # the first one checks the sampler besides

    def counting(step):
        def replay():
            before = ledger.count
            result = step()
            inside.append(ledger.count - before)
            return result

        return replay

    rollout(adapted, ["2+2="], 1)  # the first one also checks the cache
    fast.reader, counts = GraphedReader(fast.weights, counting), []
    for gen_len in (8, 24):
        inside.clear()
        with Ledger(entry.vocab) as ledger:
            rollout(adapted, ["2+2="] * 4, gen_len)
        counts.append((sum(inside) / len(inside), ledger.count - sum(inside)))
    (_, few), (step, many) = counts
    assert step / entry.layers == pytest.approx(entry.kernels, rel=0.25)
    assert (many - few) / 16 == pytest.approx(arithmetic.LAUNCHES, rel=0.2)


def test_closed_forms_of_7b_on_8_gpus(arithmetic):
    case = arithmetic.Sizing(arithmetic.MODELS[-1], 8)
    assert case.job.tokens == 64 * 200 + 1024 * 320
    assert case.cache == 128 * 768 * 2 * 28 * 512 * 2
    assert case.graphs == len({-(-slot // 64) for slot in range(201, 712)})
    assert case.gradient_bytes == 4 * 28 * 16 * (6 * 3584 + 2 * 512 + 3 * (3584 + 18944))
    unembedding, multiplied = 152_064 * 3584, 7_615_616_512 - 152_064 * 3584
    rate, bandwidth, numbers = 312e12 * 0.35, 2e12 * 0.7, 128 * 256 * 152_064
    logits = 6 * 2 * unembedding * 128 * 256 / rate + 270 * numbers / bandwidth
    tokens = (64 * 200 + 1024 * 320) / 8
    assert case.scoring == pytest.approx(4 * (multiplied - unembedding) * tokens / rate + logits)
    prompts = 64 * (1 - (31 / 32) ** 16)
    layers = 4 * 4 * (multiplied - unembedding) * (32 * 320 + prompts * 200) / rate
    logits = 6 * 2 * unembedding * 128 * 256 / rate + 300 * numbers / bandwidth
    assert case.learning() == pytest.approx(2 * (layers + logits))
    assert case.learning(checkpointed=True) == pytest.approx(2 * (1.5 * layers + logits))
    read = (32 * 320 + (prompts + 3) * 200) / (32 * 320 + prompts * 200)
    assert case.learning(8) == pytest.approx(2 * (1.5 * read * layers + logits))
    assert case.communication == pytest.approx(7 / 8 * (16 * case.gradient_bytes + 4 * 3584 * case.job.tokens) / 300e9)


def test_prompts_of_a_minibatch(arithmetic):
    """The expectation, against minibatches drawn at random."""
    case = arithmetic.Sizing(arithmetic.QWEN2_5_0_5B, 8)
    torch.manual_seed(0)
    drawn = [len((torch.randperm(1024)[:32] // 16).unique()) for _ in range(400)]
    assert sum(drawn) / 400 == pytest.approx(case.minibatch_prompts, rel=0.02)


def test_the_micro_batch_is_the_largest_that_fits(arithmetic):
    case = arithmetic.Sizing(arithmetic.MODELS[-1], 8)
    micro = case.micro_batch()
    assert max(case.learning_memory(micro), case.scoring_memory(micro)) < 0.9 * 80e9 < case.learning_memory(2 * micro)
    assert arithmetic.Sizing(arithmetic.MODELS[-1], 1, gpu=arithmetic.Gpu(memory=16e9)).micro_batch() == 0
    roomy = arithmetic.Sizing(arithmetic.QWEN2_5_0_5B, 8)
    assert roomy.micro_batch() == roomy.minibatch
    assert roomy.learning(roomy.minibatch) == roomy.learning()


@pytest.mark.parametrize("index", range(5))
def test_rollouts_take_over_at_the_floor(arithmetic, index):
    model, job, gpu = arithmetic.MODELS[index], arithmetic.Job(), arithmetic.Gpu()
    count = arithmetic.crossover(model, job, gpu)
    before, there = (arithmetic.Sizing(model, n, job, gpu) for n in (count - 1, count))
    assert before.rollout < before.phase / 2
    assert there.rollout >= there.phase / 2
    assert there.floor == before.floor > 0.6 * there.rollout
    many = arithmetic.Sizing(model, 1024, job, gpu)
    assert many.vllm_rollout > many.weights_seconds == before.weights_seconds


def test_the_page_is_the_one_on_record(arithmetic):
    """`python benchmarks/sizing.py` writes it."""
    assert (ROOT / "benchmarks" / "results" / "sizing.md").read_text() == arithmetic.page(arithmetic.Gpu())


def test_the_recipes_are_the_ones_on_record(arithmetic):
    """In the file, and on the page of all figures."""
    import sizing

    text = sizing.recipes_page()
    assert (ROOT / "benchmarks" / "results" / "recipes.md").read_text() == text
    assert text.split("\n\n")[1] in (ROOT / "benchmarks" / "README.md").read_text()


def test_a_recipe_with_autocast_is_as_the_page_says(arithmetic, monkeypatch):
    import sizing

    args = sizing.recipe(sizing.RLHFArgs, "ppo-gsm8k")
    monkeypatch.setattr(sizing, "A100", arithmetic.Gpu(float32=arithmetic.Gpu().flops))
    _, seconds = sizing.phase_of(args, sizing.A100)
    assert f"a phase of PPO takes {seconds:.0f} s" in (ROOT / "benchmarks" / "README.md").read_text()
