"""GRPO with LoRA on one GPU and on many: memory and time by arithmetic, each formula beside what it gives. Nothing is measured.

`python benchmarks/sizing.py` writes the page benchmarks/results/sizing.md from here. All sizes are in bytes, times in seconds.
The formulas follow what the library does for Llama and Qwen2 (rlhf_lib.engine), data parallel over prompts: every GPU has all
weights and samples, scores and learns from prompts of its own; only the adapters' gradients travel.
"""

import math
from dataclasses import dataclass, field

from tabulate import tabulate

REACHED = 0.35  # share of the peak arithmetic that a training or scoring pass, and decoding a large batch, is taken to reach
STREAMED = 0.7  # share of the peak bandwidth that decoding is taken to reach
LAUNCHES, LAUNCH = 50, 8e-6  # kernels of a layer in one decoding step of our own loop, and seconds that starting one takes
CHUNK = 2**26  # logits that exist at once on a GPU (rlhf_lib.engine.logits)


@dataclass(frozen=True)
class Gpu:
    """A data sheet: bytes, dense bfloat16 operations a second, bytes a second of memory, of NVLink and of the network."""

    name: str = "A100"
    memory: float = 80e9
    flops: float = 312e12
    bandwidth: float = 2.0e12
    nvlink: float = 300e9
    network: float = 25e9

    @property
    def balance(self) -> float:
        """Rows at which a decoding step's arithmetic takes as long as reading the weights: 2 N b / flops = 2 N / bandwidth."""
        return self.flops / self.bandwidth


@dataclass(frozen=True)
class Model:
    """Qwen2's architecture, from a published configuration."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool

    @property
    def kv_width(self) -> int:
        """Numbers in a token's keys, or values, of one layer."""
        return self.kv_heads * self.width // self.heads

    @property
    def adapted(self) -> int:
        """Numbers in a layer's seven maps, which adapters are merged into."""
        return 2 * self.width * (self.width + self.kv_width) + 3 * self.width * self.mlp

    @property
    def parameters(self) -> int:
        """All weights: maps, biases of q, k, v, two norms a layer, one at the end, embedding, and unembedding unless tied."""
        layer = self.adapted + (self.width + 2 * self.kv_width) + 2 * self.width
        return self.layers * layer + self.width + self.vocab * self.width * (1 if self.tied else 2)

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: without the embedding, which is looked up; a tied one unembeds."""
        return self.parameters - (0 if self.tied else self.vocab * self.width)

    def adapters(self, rank: int) -> int:
        """rank x (d_in + d_out) for each of a layer's maps q k v o, up gate down."""
        sides = (4 + 2) * self.width + 2 * self.kv_width + 3 * (self.width + self.mlp)
        return self.layers * rank * sides


@dataclass(frozen=True)
class Job:
    """The batch of a phase, as GrpoArgs names it, and how long completions are on average."""

    prompts: int = 64
    group: int = 16
    prompt: int = 200
    gen_len: int = 512
    mean: int = 256
    rank: int = 16
    num_minibatches: int = 4
    passes: int = 2

    @property
    def tokens(self) -> int:
        """Real tokens of a phase: every prompt once, every completion to its end."""
        return self.prompts * self.prompt + self.prompts * self.group * self.mean


@dataclass(frozen=True)
class Sizing:
    """One model on so many GPUs: what each of them holds, and how long a phase takes."""

    model: Model
    gpus: int
    job: Job = field(default_factory=Job)
    gpu: Gpu = field(default_factory=Gpu)

    @property
    def rows(self) -> float:
        """Completions on each GPU."""
        return self.job.prompts * self.job.group / self.gpus

    @property
    def minibatch(self) -> float:
        """Completions of an optimiser step on each GPU."""
        return self.rows / self.job.num_minibatches

    def tokens_of(self, rows: float) -> float:
        """Tokens of a pass over `rows` completions: distinct prompts once (rows are drawn at random), real tokens."""
        return min(rows, self.job.prompts / self.gpus) * self.job.prompt + rows * self.job.mean

    # memory

    @property
    def weights(self) -> float:
        """2 N: bfloat16."""
        return 2 * self.model.parameters

    @property
    def trained(self) -> float:
        """16 A: the adapters in float32, their gradient, and AdamW's two moments."""
        return 16 * self.model.adapters(self.job.rank)

    @property
    def states(self) -> float:
        """Weights, adapters, optimiser: on every GPU, in every part of a phase."""
        return self.weights + self.trained

    @property
    def merge_copy(self) -> float:
        """2 x layers x adapted: while adapters are merged for sampling, the base weights are kept to be put back exactly."""
        return 2 * self.model.layers * self.model.adapted

    @property
    def cache_per_token(self) -> float:
        """2 x layers x kv_width x 2: keys and values in bfloat16."""
        return 2 * self.model.layers * self.model.kv_width * 2

    @property
    def cache(self) -> float:
        """rows x (prompt + gen_len) x cache per token: allocated once, for the cap and not the mean."""
        return self.rows * (self.job.prompt + self.job.gen_len) * self.cache_per_token

    @property
    def paged_cache(self) -> float:
        """rows x (mean + prompt / group) x cache per token: tokens that exist, a group's prompt once."""
        return self.rows * (self.job.mean + self.job.prompt / self.job.group) * self.cache_per_token

    @property
    def draw(self) -> float:
        """18 x rows x vocab: a step's logits, twice, with log-softmax, probabilities and random numbers."""
        return 18 * self.rows * self.model.vocab

    @property
    def rollout_memory(self) -> float:
        """The cache is the largest; the vectors that tokens were sampled from (2 x width a token) stay behind."""
        vectors = 2 * self.model.width * self.rows * self.job.mean
        return self.states + self.merge_copy + self.cache + self.draw + vectors

    def pass_memory(self, rows: float) -> float:
        """Without gradients, (12 mlp + 10 width) a token, one layer at a time: scoring `rows` at once."""
        return self.tokens_of(rows) * (12 * self.model.mlp + 10 * self.model.width)

    @property
    def activation_per_token(self) -> float:
        """What the backward pass needs of a layer: 44 d + 10 f + 4 kv (1 + P/m) + 2 g (P + m) + 28 rank bytes a token.

        d: width, f: mlp, g: heads that share keys, P: prompt, m: mean completion. Inputs of maps and norms are kept in float32
        for the adapters (40 d + 4 f), the rest in bfloat16. tests/library/test_sizing.py counts the same on a small model.
        """
        m, job = self.model, self.job
        shared = 4 * m.kv_width * (1 + job.prompt / job.mean) + 2 * (m.heads // m.kv_heads) * (job.prompt + job.mean)
        return 44 * m.width + 10 * m.mlp + shared + 28 * job.rank

    def activations(self, rows: float, checkpointed: bool = False) -> float:
        """Of `rows` completions learned from at once; checkpointed: 2 x width a token and layer, and one layer in full."""
        layer, tokens = self.activation_per_token, self.tokens_of(rows)
        if checkpointed:
            return tokens * (self.model.layers * 2 * self.model.width + layer)
        return tokens * self.model.layers * layer

    def logits(self, rows: float, whole: bool = False) -> float:
        """4 bytes x 4 copies (logits, log-softmax, gradients): whole, or of the chunk that exists at once."""
        everything = rows * self.job.mean * self.model.vocab
        return 16 * (everything if whole else min(CHUNK, everything))

    def scoring_memory(self, rows: float) -> float:
        """Scoring `rows` at a time."""
        return self.states + self.pass_memory(rows) + self.logits(rows)

    def learning_memory(self, rows: float, checkpointed: bool = False) -> float:
        """Learning from `rows` at a time, gradients adding up."""
        return self.states + self.activations(rows, checkpointed) + self.logits(rows)

    def micro_batch(self, checkpointed: bool = False, room: float = 0.9) -> int:
        """The largest power of two of rows that scoring and learning have room for; 0 where there is none."""
        sizes = [2**k for k in range(int(math.log2(max(1, self.minibatch))), -1, -1)]
        fits = (n for n in sizes if max(self.learning_memory(n, checkpointed), self.scoring_memory(n)) < room * self.gpu.memory)
        return next(fits, 0)

    # time

    @property
    def bandwidth_floor(self) -> float:
        """(gen_len x 2 N + rows x mean x (P + mean / 2) x cache per token) / bandwidth: each step reads weights and cache."""
        read = self.job.gen_len * 2 * self.model.multiplied
        read += self.rows * self.job.mean * (self.job.prompt + self.job.mean / 2) * self.cache_per_token
        return read / self.gpu.bandwidth

    @property
    def arithmetic_floor(self) -> float:
        """2 N operations a token, prompts once, at the peak rate."""
        return 2 * self.model.multiplied * self.job.tokens / self.gpus / self.gpu.flops

    @property
    def launch_floor(self) -> float:
        """gen_len x layers x LAUNCHES x LAUNCH: what a loop without CUDA graphs pays, however small the batch."""
        return self.job.gen_len * self.model.layers * LAUNCHES * LAUNCH

    @property
    def graphed_rollout(self) -> float:
        """By an engine with CUDA graphs, such as vLLM: the larger floor, at the shares taken to be reached."""
        return max(self.bandwidth_floor / STREAMED, self.arithmetic_floor / REACHED)

    @property
    def rollout(self) -> float:
        """By our own loop: no faster than its launches."""
        return max(self.graphed_rollout, self.launch_floor)

    @property
    def scoring(self) -> float:
        """2 N a token for the policy, and for the reference."""
        return 2 * 2 * self.model.multiplied * self.job.tokens / self.gpus / (self.gpu.flops * REACHED)

    def learning(self, at_once: float | None = None, checkpointed: bool = False) -> float:
        """2 N forward, 2 N backward (frozen weights need no gradient), 2 N more where layers are computed twice.

        `at_once` completions are learned from at a time, whose prompts are read anew each time; None: a whole minibatch.
        """
        at_once = self.minibatch if at_once is None else at_once
        operations = (6 if checkpointed else 4) * self.model.multiplied * self.rows / at_once * self.tokens_of(at_once)
        return self.job.passes * operations / (self.gpu.flops * REACHED)

    @property
    def gradient_bytes(self) -> float:
        """4 A: the adapters' gradient in float32, once an optimiser step."""
        return 4 * self.model.adapters(self.job.rank)

    @property
    def all_reduce(self) -> float:
        """steps x 2 (n - 1) / n x 4 A / link: a ring, over NVLink up to 8 GPUs and the network beyond."""
        link = self.gpu.nvlink if self.gpus <= 8 else self.gpu.network
        steps = self.job.num_minibatches * self.job.passes
        return steps * 2 * (self.gpus - 1) / self.gpus * self.gradient_bytes / link

    @property
    def own_crossover(self) -> float:
        """GPUs at which the rest of a phase takes no longer than our own loop's launches, or its floor by bandwidth."""
        rest = (2 + 2 * self.job.passes) * 2 * self.model.multiplied * self.job.tokens / (self.gpu.flops * REACHED)
        weights = self.job.gen_len * 2 * self.model.multiplied / (self.gpu.bandwidth * STREAMED)
        return rest / max(self.launch_floor, weights)

    @property
    def phase(self) -> float:
        """Rollout by our own loop, scoring, learning in the largest micro-batches that fit, all-reduce; nothing overlaps."""
        return self.rollout + self.scoring + self.learning(self.micro_batch() or None) + self.all_reduce


def crossover(job: Job, gpu: Gpu) -> float:
    """GPUs at which scoring and learning, every prompt once, take as long as reading the weights gen_len times; N cancels."""
    return (2 + 2 * job.passes) * job.tokens * (STREAMED / REACHED) / (job.gen_len * gpu.balance)


MODELS = (
    Model("Qwen2.5-0.5B", 24, 896, 14, 2, 4864, 151_936, True),
    Model("Qwen2.5-1.5B", 28, 1536, 12, 2, 8960, 151_936, True),
    Model("Qwen2.5-7B", 28, 3584, 28, 4, 18944, 152_064, False),
)
COUNTS = (1, 8, 64)


def gb(number: float) -> str:
    """Bytes as GB."""
    return f"{number / 1e9:,.1f}" if number < 99.5e9 else f"{number / 1e9:,.0f}"


def sec(number: float) -> str:
    """Seconds to two digits."""
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}" if number >= 0.995 else f"{number:.2g}"


def table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table."""
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def cases(gpu: Gpu) -> list[Sizing]:
    """Every model on every number of GPUs."""
    return [Sizing(model, count, gpu=gpu) for model in MODELS for count in COUNTS]


def states_table(gpu: Gpu) -> str:
    """What is on every GPU whatever their number."""
    rows = []
    for model in MODELS:
        case = Sizing(model, 1, gpu=gpu)
        counts = f"{model.parameters / 1e9:.3f}", f"{model.adapters(case.job.rank) / 1e6:.1f}"
        parts = (case.weights, case.trained, case.states, case.merge_copy)
        rows.append((model.name, *counts, *map(gb, parts), f"{case.cache_per_token / 1024:.0f}"))
    heads = (
        "model",
        "N, billions",
        "A, millions",
        "weights 2N",
        "adapters, AdamW 16A",
        "together",
        "merge copy",
        "cache, KiB a token",
    )
    return table(heads, rows)


def memory_table(gpu: Gpu) -> str:
    """Peaks of the three parts of a phase."""
    rows = []
    for case in cases(gpu):
        plain, checkpointed = case.learning_memory(case.minibatch), case.learning_memory(case.minibatch, checkpointed=True)
        parts = (case.cache, case.rollout_memory, case.scoring_memory(case.rows), plain, checkpointed)
        micro = case.micro_batch()
        fitted = f"{micro}: {gb(case.learning_memory(micro))}" if micro else "none fits"
        rows.append((case.model.name, case.gpus, f"{case.rows:.0f}", *map(gb, parts), fitted))
    heads = ("model", "GPUs", "rows each", "cache", "rollout", "scoring", "learning", "checkpointed", "micro-batch")
    return table(heads, rows)


def time_table(gpu: Gpu) -> str:
    """Seconds of a phase, part by part."""
    rows = []
    for case in cases(gpu):
        floors = (case.bandwidth_floor, case.arithmetic_floor, case.launch_floor, case.rollout)
        parts = (case.scoring, case.learning(case.micro_batch() or None), case.all_reduce, case.phase)
        rows.append((case.model.name, case.gpus, *map(sec, (*floors, *parts)), f"{case.rollout / case.phase:.0%}"))
    heads = ("model", "GPUs", "bandwidth", "arithmetic", "launches", "rollout", "scoring", "learning", "all-reduce", "phase")
    return table((*heads, "rollout's share"), rows)


def server_table(gpu: Gpu) -> str:
    """What another sampler could gain."""
    rows = []
    for case in cases(gpu):
        rest = case.phase - case.rollout
        within, apart = case.graphed_rollout + rest, max(case.graphed_rollout, rest)
        gains = (f"{case.phase / within:.1f}x", f"{case.phase / apart:.1f}x")
        times = map(sec, (case.rollout, case.graphed_rollout))
        rows.append((case.model.name, case.gpus, *times, gains[0], gains[1], gb(case.cache), gb(case.paged_cache)))
    heads = ("model", "GPUs", "own loop", "CUDA graphs", "a phase gains", "overlapped, at most", "cache, GB", "paged, GB")
    return table(heads, rows)


def shared_values(gpu: Gpu) -> dict[str, object]:
    """What the page says of the GPU and the batch."""
    job = Job()
    whole = [gb(Sizing(MODELS[0], n, gpu=gpu).logits(job.prompts * job.group / n, whole=True)) for n in COUNTS]
    return {
        "gpu": f"{gpu.name}: {gpu.memory / 1e9:.0f} GB, {gpu.flops / 1e12:.0f} TFLOP/s, {gpu.bandwidth / 1e12:.3g} TB/s",
        "links": f"NVLink {gpu.nvlink / 1e9:.0f} GB/s, network {gpu.network / 1e9:.0f} GB/s a GPU",
        "rows": f"{job.prompts * job.group:,}",
        "batch": f"{job.prompts} prompts x {job.group}",
        "tokens": f"{job.tokens:,}",
        "minibatches": job.num_minibatches,
        **{name: getattr(job, name) for name in ("prompt", "gen_len", "mean", "rank", "passes")},
        "reached": f"{REACHED:.0%}",
        "streamed": f"{STREAMED:.0%}",
        "launches": f"{LAUNCHES} kernels a layer of {LAUNCH * 1e6:.0f} µs each",
        "chunk": gb(16 * CHUNK),
        "whole": f"{whole[0]} GB on one GPU, {whole[1]} on each of 8, {whole[2]} on each of 64",
        "balance": f"{gpu.balance:.0f}",
        "busy": f"{job.prompts * job.group / gpu.balance:.0f}",
        "crossover": f"{crossover(job, gpu):.0f}",
        "own_crossovers": ", ".join(f"{Sizing(m, 1, gpu=gpu).own_crossover:.0f} ({m.name})" for m in MODELS),
        "states_table": states_table(gpu),
        "memory_table": memory_table(gpu),
        "time_table": time_table(gpu),
        "server_table": server_table(gpu),
    }


def worked_values(case: Sizing) -> dict[str, object]:
    """The numbers of the worked example."""
    micro, whole = case.micro_batch(), case.learning_memory(case.minibatch)
    learning, micro_seconds = case.learning(), case.learning(micro or None)
    return {
        "x_name": case.model.name,
        "x_states": gb(case.states),
        "x_rows": f"{case.rows:.0f}",
        "x_token": f"{case.cache_per_token:,.0f}",
        "x_cache": gb(case.cache),
        "x_merge": gb(case.merge_copy),
        "x_rollout": gb(case.rollout_memory),
        "x_minibatch": f"{case.minibatch:.0f}",
        "x_tokens": f"{case.tokens_of(case.minibatch):,.0f}",
        "x_layer": f"{case.activation_per_token / 1e3:.0f}",
        "x_kept": f"{case.activation_per_token * case.model.layers / 1e6:.1f}",
        "x_learning": gb(whole),
        "x_verdict": "too much" if whole > case.gpu.memory else "which fits",
        "x_micro": micro,
        "x_fitted": gb(case.learning_memory(micro)),
        "x_checkpointed": gb(case.learning_memory(case.minibatch, checkpointed=True)),
        "x_more": sec(micro_seconds - learning),
        "x_extra": sec(case.learning(checkpointed=True) - learning),
        "x_times": f"{sec(case.rollout)} + {sec(case.scoring)} + {sec(micro_seconds)} s",
        "x_gradient": f"{case.gradient_bytes / 1e6:.0f}",
        "x_all_reduce": sec(1000 * case.all_reduce),
        "x_phase": sec(case.phase),
        "x_read": gb(2 * case.model.multiplied),
        "x_floor": sec(case.job.gen_len * 2 * case.model.multiplied / case.gpu.bandwidth),
    }


def page(gpu: Gpu) -> str:
    """The page, with the largest model that fits on 8 GPUs as the worked example."""
    eights = [Sizing(model, 8, gpu=gpu) for model in MODELS]
    fitting = [case for case in eights if case.micro_batch() and case.rollout_memory < gpu.memory]
    return PAGE.format(**shared_values(gpu), **worked_values((fitting or eights[:1])[-1]))


PAGE = """# What GRPO takes: one GPU, eight, sixty-four

Computed, not measured, by `python benchmarks/sizing.py`; the formulas are the short functions of `benchmarks/arithmetic.py`.

| | |
|---|---|
| GPU | {gpu} (dense bfloat16); {links} |
| phase | {rows} completions ({batch}), prompts of {prompt} tokens, gen_len {gen_len}, mean length {mean}: {tokens} tokens |
| training | LoRA rank {rank} on all maps, bfloat16 base, {minibatches} minibatches, {passes} passes over the completions |
| taken to be reached | {reached} of the arithmetic, {streamed} of the bandwidth; our decode loop starts {launches} |

For another GPU, `python benchmarks/sizing.py --gpu H100 --gigabytes 80 --teraflops 989 --terabytes-per-second 3.35 --nvlink 450
--network 50` prints this page with its numbers.

Data parallel over prompts (torchrun): every GPU has all weights, takes its share of the prompts, samples, scores and learns;
the adapters' gradients are averaged. Groups stay whole, so advantages need no communication. In the formulas, N: parameters,
A: adapter parameters, d: width, f: width of the MLP, kv: width of a token's keys, g: heads that share keys, P: prompt,
m: mean completion, n: GPUs, rows: completions on a GPU.

## On every GPU, whatever their number (GB)

{states_table}

The merge copy exists during rollouts only: 2 bytes for every number of the adapted maps, so that adapters are taken out again
bit for bit. The reference policy is the model without adapters and costs nothing. More GPUs shrink none of this.

## Memory of a phase, GB on each GPU

{memory_table}

Each column is the peak of that part, everything included. *Scoring* and *learning* are of all rows and of a whole minibatch at
once; *checkpointed* is learning with `--checkpoint-activations`; *micro-batch* is the largest `--micro-batch-size` (a power of
two, at most the minibatch) with which scoring and learning leave a tenth of the memory free, and what learning then takes.

| part | bytes |
|---|---|
| rollout | 2 N + 16 A + merge copy + rows (P + gen_len) x cache a token + 18 rows vocab + 2 d rows m |
| cache a token | 2 x layers x kv x 2; room for the cap in every row, prompt included |
| scoring | (12 f + 10 d) a token, one layer at a time |
| learning | a token and layer: 44 d + 10 f + 4 kv (1 + P/m) + 2 g (P + m) + 28 rank |
| checkpointed | a token and layer: 2 d, and one layer in full; layers are computed twice |
| logits | 16 a number (float32, four copies), in chunks: {chunk} GB at most |

Whole logits of a phase would take {whole}, for any of these models.
Activations are for the mean length: completions that all run to the cap take (P + gen_len) / (P + m) times as much. Of
44 d + 10 f, 40 d + 4 f are float32 inputs of adapters and norms.

## Time of a phase, seconds

The first three columns are floors of the rollout.

{time_table}

| part | seconds |
|---|---|
| bandwidth | (gen_len x 2 N + rows m (P + m/2) x cache a token) / bandwidth: each step reads all weights and the cache |
| arithmetic | 2 N x tokens / n / peak |
| launches | gen_len x layers x kernels x seconds a launch: no less without CUDA graphs, however small the batch |
| rollout | the largest of: bandwidth / {streamed}, arithmetic / {reached}, launches |
| scoring | policy and reference: 2 x 2 N x tokens / n / (peak x {reached}) |
| learning | passes x 4 N x tokens / (peak x {reached}), 6 N checkpointed: frozen weights need no gradient of their own |
| all-reduce | steps x 2 (n - 1)/n x 4 A / link; NVLink up to 8 GPUs, then the network |

Rollout and scoring read a GPU's prompts once, learning once a micro-batch (the one of the table above). N is here what a token
is multiplied with: an untied embedding is only looked up. Left out: attention's own arithmetic (under 4%
at these lengths), the adapters' (under 2% of the operations, but in float32: without TF32 up to a fifth more time on 0.5B), and
launches of small learning passes. Some row takes all {gen_len} steps, and all GPUs wait for it.

## Worked example: {x_name} on 8 GPUs

1. Weights, adapters and AdamW: {x_states} GB on each GPU.
2. Rollout: {x_rows} rows x ({prompt} + {gen_len}) tokens x {x_token} bytes = {x_cache} GB of cache, {x_merge} GB of merge copy,
   {x_rollout} GB in all.
3. Learning: a minibatch is {x_minibatch} rows, {x_tokens} tokens; a token keeps {x_layer} kB a layer, {x_kept} MB in all:
   {x_learning} GB, {x_verdict}. `--micro-batch-size {x_micro}` takes {x_fitted} GB, and {x_more} s more a phase, since
   rows are drawn at random: each micro-batch reads most of the prompts anew. `--checkpoint-activations` takes
   {x_checkpointed} GB for the whole minibatch, and {x_extra} s more.
4. Time, with micro-batches: {x_times} for rollout, scoring and learning; {x_gradient} MB of gradient a step,
   {x_all_reduce} ms a phase; {x_phase} s in all.

       torchrun --nproc-per-node 8 -m rlhf_lib train grpo --task gsm8k --base-model Qwen/{x_name}-Instruct \\
         --dtype bfloat16 --lora-rank 16 --batch-size 1024 --group-size 16 --gen-len 512 --micro-batch-size {x_micro}

## When to move rollouts to vLLM servers

Scoring and learning shrink with the number of GPUs. A rollout's floor, gen_len x 2 N / bandwidth, does not: {x_floor} s for
{x_name}, whose {x_read} GB are read {gen_len} times. So rollouts come to take longer than all the rest, with CUDA graphs beyond

    n = (2 + 2 passes) x tokens x ({streamed} / {reached}) / (gen_len x balance) = {crossover} GPUs
    balance = peak arithmetic / bandwidth = {balance} rows

whatever the model: N cancels (tokens: every prompt once). Our own loop, which pays for launches, gets there at
{own_crossovers} GPUs.
The balance is how many rows a GPU multiplies in the time that it reads the weights once. With fewer rows each, GPUs wait for
memory: {rows} completions keep {busy} GPUs busy.

{server_table}

- **vLLM on the same GPU** (`--sampler vllm`, one process so far) gains the launches: *own loop* against *CUDA graphs*. Its
  paged cache holds a group's prompt once, and tokens that exist in place of the cap; but it takes a second copy of the weights,
  2 N, out of `--sampler-memory`. Worth it for small models, and where the cache is what limits the batch.
- **vLLM servers, on GPUs of their own** (not in this library) are worth it beyond {crossover} GPUs, where rows a GPU are far
  below {balance}: rollouts get rows / {balance} = {busy} GPUs, the others learn from the phase before meanwhile. *Overlapped*
  is the most that this can gain. If the floor is still too slow, tensor parallelism over t GPUs divides it by t.
- What has to travel decides nothing: an adapter, 4 A bytes a phase ({x_gradient} MB for {x_name}), not 2 N.
- The sampler's probabilities are not quite the trainer's, and overlapped rollouts are a phase old besides. Watch `sampler_gap`,
  `sampler_weight` and `sampler_capped`; the correction (`--sampler-cap`, truncated importance sampling, Yao et al. 2025) is on.
"""
