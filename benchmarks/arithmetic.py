"""GRPO with LoRA on one GPU and on many: memory and time by arithmetic, each formula beside what it gives. Nothing is measured.

`python benchmarks/sizing.py` writes the page benchmarks/results/sizing.md from here. All sizes are in bytes, times in seconds.
The formulas follow what rlhf_lib.engine does on CUDA for the architectures it covers, and rlhf_lib.parallel among processes:
each holds all weights and the same phase, passes its own rows through the model, and takes the same optimiser step.
"""

import math
from dataclasses import dataclass, field

from tabulate import tabulate

REACHED = 0.35  # share of the peak arithmetic that a training or scoring pass, and decoding a large batch, is taken to reach
STREAMED = 0.7  # share of the peak bandwidth that decoding, and work on logits number by number, is taken to reach
KERNELS, KERNEL = 50, 2e-6  # kernels of a layer in one decoding step, and seconds that the smallest takes inside a graph
HEAD_NORM_KERNELS = 18  # more where heads are normalised: two norms of nine operations
LAUNCHES, LAUNCH = 27, 8e-6  # kernels of a step outside its graph (drawing, book-keeping), and seconds that starting one takes
VLLM_KERNELS = 15  # the same of a layer in vLLM, which fuses norms, rotations and activations
LENGTH_STEP = 64  # a graph for each so many slots of the cache (rlhf_lib.engine.graphs)
RECTANGLES = 4  # lengths that completions are padded to in a pass (rlhf_lib.engine.packing)
CHUNK = 2**26  # logits that exist at once on a GPU (rlhf_lib.engine.logits)
CHUNK_BYTES = 21  # of each of them at the peak: logits, log-probabilities, probabilities, gradients in float32
DRAWING, SCORING, LEARNING = 50, 270, 150  # bytes read and written for each logit: a draw, scoring, one evaluation learned from
SCORED = 6  # times that scoring computes logits: log-probabilities of both models, KL (three), entropy


@dataclass(frozen=True)
class Gpu:
    """A data sheet: bytes, dense bfloat16 operations a second, bytes a second of memory, of NVLink and of the network.

    float32: operations a second of torch's float32 products, which do without tensor cores unless TF32 is asked for.
    """

    name: str = "A100"
    memory: float = 80e9
    flops: float = 312e12
    bandwidth: float = 2.0e12
    nvlink: float = 300e9
    network: float = 25e9
    float32: float = 19.5e12

    @property
    def balance(self) -> float:
        """Rows at which a decoding step's arithmetic takes as long as reading the weights: 2 N b / flops = 2 N / bandwidth."""
        return self.flops / self.bandwidth


@dataclass(frozen=True)
class Model:
    """Llama's architecture, Qwen2's and Qwen3's, from a published configuration."""

    name: str
    hub: str
    """Its name on Hugging Face's hub, with the maker's."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool = True
    head_width: int | None = None
    """Of one head (head_dim); None: width / heads."""
    has_bias: bool = False
    """Whether q, k and v have biases, as Qwen2's have."""
    has_head_norms: bool = False
    """Whether every head's queries and keys are normalised, as Qwen3's are."""

    @property
    def query_width(self) -> int:
        """Numbers in a token's queries of one layer, which need not be its width."""
        return self.width if self.head_width is None else self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Numbers in a token's keys, or values, of one layer."""
        return self.kv_heads * self.query_width // self.heads

    @property
    def adapted(self) -> int:
        """Numbers in a layer's seven maps, which adapters are merged into."""
        return 2 * self.width * (self.query_width + self.kv_width) + 3 * self.width * self.mlp

    @property
    def parameters(self) -> int:
        """All weights: maps, biases of q, k, v, two norms a layer and those of heads, one norm at the end, embedding, and
        unembedding unless tied."""
        biases = self.query_width + 2 * self.kv_width if self.has_bias else 0
        head_norms = 2 * self.query_width // self.heads if self.has_head_norms else 0
        layer = self.adapted + biases + 2 * self.width + head_norms
        return self.layers * layer + self.width + self.vocab * self.width * (1 if self.tied else 2)

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: without the embedding, which is looked up; a tied one unembeds."""
        return self.parameters - (0 if self.tied else self.vocab * self.width)

    @property
    def unembedding(self) -> int:
        """vocab x width: the part of `multiplied` that only completions need."""
        return self.vocab * self.width

    @property
    def body(self) -> int:
        """The rest of it, which every token is multiplied with."""
        return self.multiplied - self.unembedding

    def adapters(self, rank: int) -> int:
        """rank x (d_in + d_out) for each of a layer's maps q k v o, up gate down."""
        sides = 4 * self.width + 2 * self.query_width + 2 * self.kv_width + 3 * (self.width + self.mlp)
        return self.layers * rank * sides

    @property
    def kernels(self) -> int:
        """Of a layer in one decoding step."""
        return KERNELS + (HEAD_NORM_KERNELS if self.has_head_norms else 0)


@dataclass(frozen=True)
class Job:
    """The batch of a phase, as GrpoArgs names it, and how long completions are on average."""

    prompts: int = 64
    group: int = 16
    prompt: int = 200
    gen_len: int = 512
    mean: int = 256
    rank: int | None = 16
    """None: every weight is trained, in float32."""
    num_minibatches: int = 4
    passes: int = 2
    evaluations: int = 2
    """Times that learning computes a completion's logits: log-probability and entropy; PPO's exact KL takes three more."""
    frozen_copy: bool = False
    """Whether the reference policy is a second model."""

    @property
    def rows(self) -> int:
        """Completions of a phase."""
        return self.prompts * self.group

    @property
    def packed(self) -> float:
        """mean + (gen_len - mean) / 4: a completion in a pass, padded in rectangles of evenly spread lengths."""
        return self.mean + (self.gen_len - self.mean) / RECTANGLES

    @property
    def tokens(self) -> float:
        """Tokens that a pass over the phase computes: every prompt once, every completion packed."""
        return self.prompts * self.prompt + self.rows * self.packed


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
        return self.job.rows / self.gpus

    @property
    def prompts(self) -> float:
        """Prompts on each GPU, which samples and scores whole groups."""
        return max(1, self.job.prompts / self.gpus)

    @property
    def minibatch(self) -> float:
        """Completions of an optimiser step on each GPU."""
        return self.rows / self.job.num_minibatches

    @property
    def minibatch_prompts(self) -> float:
        """prompts (1 - (1 - share)^group): distinct prompts among its rows, which are drawn at random."""
        share = self.minibatch / self.job.rows
        return self.job.prompts * (1 - (1 - share) ** self.job.group)

    @property
    def number(self) -> int:
        """Bytes of a weight: bfloat16 under adapters, float32 where all are trained."""
        return 4 if self.job.rank is None else 2

    @property
    def rate(self) -> float:
        """Operations a second that passes are taken to reach."""
        return REACHED * (self.gpu.float32 if self.job.rank is None else self.gpu.flops)

    # memory

    @property
    def weights(self) -> float:
        """2 N: bfloat16."""
        return self.number * self.model.parameters * (2 if self.job.frozen_copy else 1)

    @property
    def trained(self) -> float:
        """16 A: the adapters in float32, their gradient, and AdamW's two moments."""
        return 12 * self.model.parameters if self.job.rank is None else 16 * self.model.adapters(self.job.rank)

    @property
    def states(self) -> float:
        """Weights, adapters, optimiser: on every GPU, in every part of a phase."""
        return self.weights + self.trained

    @property
    def merge_copy(self) -> float:
        """2 x layers x adapted: while adapters are merged for sampling, the base weights are kept to be put back exactly."""
        return 0 if self.job.rank is None else 2 * self.model.layers * self.model.adapted

    @property
    def cache_per_token(self) -> float:
        """2 x layers x kv_width x 2: keys and values in bfloat16."""
        return 2 * self.model.layers * self.model.kv_width * self.number

    @property
    def slots(self) -> int:
        """prompt + gen_len, rounded up: the cache has room for the cap and not the mean."""
        return LENGTH_STEP * math.ceil((self.job.prompt + self.job.gen_len) / LENGTH_STEP)

    @property
    def cache(self) -> float:
        """rows x slots x cache per token: allocated once, and kept from phase to phase."""
        return self.rows * self.slots * self.cache_per_token

    @property
    def paged_cache(self) -> float:
        """rows x (mean + prompt / group) x cache per token: tokens that exist, a group's prompt once."""
        return self.rows * (self.job.mean + self.job.prompt / self.job.group) * self.cache_per_token

    @property
    def graphs(self) -> int:
        """Graphs that a rollout replays, one a length."""
        return self.slots // LENGTH_STEP - self.job.prompt // LENGTH_STEP

    @property
    def token_of_a_pass(self) -> float:
        """12 mlp + 10 width: what a pass without gradients holds of a token, one layer at a time."""
        return self.number / 2 * (12 * self.model.mlp + 10 * self.model.width)

    @property
    def sampled(self) -> float:
        """2 x width x rows x gen_len: the vectors that tokens were sampled from, kept until the next rollout is done."""
        return self.number * self.model.width * self.rows * self.job.gen_len

    @property
    def kept(self) -> float:
        """What a rollout leaves on the GPU: cache, graphs (each with results of its own), sampled vectors."""
        return self.cache + self.graphs * self.rows * self.token_of_a_pass + self.sampled

    @property
    def draw(self) -> float:
        """18 x rows x vocab: a step's logits, twice, with log-softmax, probabilities and random numbers."""
        return 18 * self.rows * self.model.vocab

    @property
    def rollout_memory(self) -> float:
        """The sampled vectors three times: the last phase's, this one's step by step, and all together."""
        return self.states + self.kept + self.merge_copy + self.draw + 2 * self.sampled

    @property
    def scored_vectors(self) -> float:
        """3 x 2 x width x all tokens: every GPU gets everyone's vectors, the policy's, the reference's, and while they come."""
        return 3 * self.number * self.model.width * self.job.tokens

    def scoring_memory(self, rows: float) -> float:
        """Scoring `rows` at a time."""
        tokens = max(1, rows / self.job.group) * self.job.prompt + rows * self.job.packed
        return self.states + self.kept + tokens * self.token_of_a_pass + self.scored_vectors + self.logits(self.rows)

    @property
    def activation_per_token(self) -> float:
        """What the backward pass needs of a layer: 36 d + 8 q + 10 f + 4 kv (1 + P/m) + 2 g (P + m) + 28 rank bytes a token.

        d: width, q: width of queries, f: mlp, g: heads that share keys, P: prompt, m: packed completion. Inputs of maps and
        norms are in float32 for the adapters (36 d + 4 q + 4 f), the rest in bfloat16. Without adapters 24 d + 12 q + 16 f +
        8 kv (1 + P/m) + 4 g (P + m), all in float32. Norms of heads keep 8 (q + kv) more, two copies in float32.
        tests/library/test_sizing.py counts the same on small models.
        """
        m, job = self.model, self.job
        shared = 2 * m.kv_width * (1 + job.prompt / job.packed) + (m.heads // m.kv_heads) * (job.prompt + job.packed)
        norms = 8 * (m.query_width + m.kv_width) if m.has_head_norms else 0
        adapted = 36 * m.width + 8 * m.query_width + 10 * m.mlp + 28 * (job.rank or 0)
        own = 24 * m.width + 12 * m.query_width + 16 * m.mlp if job.rank is None else adapted
        return own + norms + self.number * shared

    def activations(self, rows: float, checkpointed: bool = False) -> float:
        """Of `rows` completions learned from at once; checkpointed: 2 x width a token and layer, and one layer in full."""
        prompts = min(rows, self.minibatch_prompts * rows / self.minibatch + (rows < self.minibatch))
        tokens, layer = prompts * self.job.prompt + rows * self.job.packed, self.activation_per_token
        if checkpointed:
            return tokens * (self.model.layers * self.number * self.model.width + layer)
        return tokens * self.model.layers * layer

    def logits(self, rows: float, whole: bool = False) -> float:
        """21 bytes a number: whole, or of the chunk that exists at once."""
        everything = rows * self.job.mean * self.model.vocab
        return CHUNK_BYTES * (everything if whole else min(CHUNK, everything))

    def learned(self, rows: float, checkpointed: bool = False) -> float:
        """Activations of `rows` at a time; of the whole minibatch the last vectors, about five times; logits."""
        tokens = self.minibatch_prompts * self.job.prompt + self.minibatch * self.job.packed
        vectors = 5 * self.number * self.model.width * tokens
        return self.activations(rows, checkpointed) + vectors + self.logits(self.minibatch)

    def learning_memory(self, rows: float, checkpointed: bool = False) -> float:
        """Learning from `rows` at a time."""
        return self.states + self.kept + self.learned(rows, checkpointed)

    def micro_batch(self, room: float = 0.9) -> float:
        """Rows at once that scoring and learning have room for: the minibatch, or a power of two; 0 where there is none."""
        space = room * self.gpu.memory
        if max(self.learning_memory(self.minibatch), self.scoring_memory(self.rows)) < space:
            return self.minibatch
        sizes = [2**k for k in range(math.ceil(math.log2(max(1, self.minibatch))) - 1, -1, -1)]
        return next((n for n in sizes if max(self.learning_memory(n), self.scoring_memory(n)) < space), 0)

    # time

    @property
    def weights_seconds(self) -> float:
        """gen_len x 2 N / (bandwidth x 70%): each step reads all weights, however few the rows."""
        return self.job.gen_len * self.number * self.model.multiplied / (self.gpu.bandwidth * STREAMED)

    @property
    def decode_seconds(self) -> float:
        """2 N (prompts P + rows gen_len) / (peak x 35%): rows that have ended stay, being part of the graph."""
        return 2 * self.model.multiplied * (self.prompts * self.job.prompt + self.rows * self.job.gen_len) / self.rate

    @property
    def cache_seconds(self) -> float:
        """rows gen_len (P + gen_len / 2) x cache per token / (bandwidth x 70%): each step reads what is filled."""
        read = self.rows * self.job.gen_len * (self.job.prompt + self.job.gen_len / 2) * self.cache_per_token
        return read / (self.gpu.bandwidth * STREAMED)

    @property
    def draw_seconds(self) -> float:
        """rows gen_len vocab x 50 / (bandwidth x 70%): logits, log-softmax, random numbers, their quotient's largest."""
        return self.rows * self.job.gen_len * self.model.vocab * DRAWING / (self.gpu.bandwidth * STREAMED)

    @property
    def kernel_seconds(self) -> float:
        """gen_len x (50 layers x 2 us + 27 x 8 us): the smallest kernels of a graph, and launches outside it."""
        return self.job.gen_len * (self.model.kernels * self.model.layers * KERNEL + LAUNCHES * LAUNCH)

    @property
    def rollout(self) -> float:
        """The larger of weights and arithmetic, since either hides the other, and the rest."""
        matrices = max(self.weights_seconds, self.decode_seconds)
        return matrices + self.cache_seconds + self.draw_seconds + self.kernel_seconds

    @property
    def floor(self) -> float:
        """Of a rollout, what more GPUs do not shrink."""
        return self.weights_seconds + self.kernel_seconds

    @property
    def capture(self) -> float:
        """graphs x 3 x 50 layers x 8 us: every graph's step is run twice and captured once, kernel by kernel."""
        return self.graphs * 3 * self.model.kernels * self.model.layers * LAUNCH

    @property
    def vllm_rollout(self) -> float:
        """The same by an engine that rows leave when they end, and whose kernels are fused."""
        job, ended = self.job, self.job.mean / self.job.gen_len
        arithmetic = 2 * self.model.multiplied * (self.prompts * job.prompt + self.rows * job.mean) / self.rate
        cache = self.cache_seconds * ended * (job.prompt + job.mean / 2) / (job.prompt + job.gen_len / 2)
        kernels = job.gen_len * VLLM_KERNELS * self.model.layers * KERNEL
        return max(self.weights_seconds, arithmetic) + cache + ended * self.draw_seconds + kernels

    def logit_seconds(self, rows: float, products: float, traffic: float) -> float:
        """Products with the unembedding and bytes a logit, for every generated token of `rows`."""
        tokens = rows * self.job.mean
        reading = tokens * self.model.vocab * traffic / (self.gpu.bandwidth * STREAMED)
        return products * 2 * self.model.unembedding * tokens / self.rate + reading

    @property
    def scoring(self) -> float:
        """2 body a token, for a pass of the policy and one of the reference, and logits.

        In float32, without a value head, the policy's pass is not needed: the vectors that it was sampled from serve.
        """
        tokens = self.prompts * self.job.prompt + self.rows * self.job.packed
        return 2 * 2 * self.model.body * tokens / self.rate + self.logit_seconds(self.rows, SCORED, SCORING)

    def learning(self, at_once: float | None = None, checkpointed: bool = False) -> float:
        """2 body forward, 2 backward (4 where weights are trained), 2 more where layers are computed twice; and logits.

        `at_once` rows go through the layers at a time, twice; sorted by prompt, so that each cut reads at most one prompt
        anew. None: the whole minibatch. Logits are computed forward, once more backward, and their gradients.
        """
        job, at_once = self.job, at_once or self.minibatch
        is_cut = at_once < self.minibatch
        prompts = min(self.minibatch, self.minibatch_prompts + self.minibatch / at_once - 1)
        tokens = prompts * job.prompt + self.minibatch * job.packed
        operations = (6 if job.rank is None else 4) + (2 if is_cut or checkpointed else 0)
        layers = job.num_minibatches * operations * self.model.body * tokens / self.rate
        products = job.evaluations * (4 if job.rank is None else 3)
        return job.passes * (layers + self.logit_seconds(self.rows, products, LEARNING * job.evaluations))

    @property
    def gradient_bytes(self) -> float:
        """4 A: the adapters' gradient in float32, once an optimiser step."""
        return 4 * (self.model.parameters if self.job.rank is None else self.model.adapters(self.job.rank))

    @property
    def communication(self) -> float:
        """(n - 1)/n x (steps x 2 x 4 A + 2 x 2 d x all tokens) / link: gradients in a ring, and scoring's vectors to all."""
        link = self.gpu.nvlink if self.gpus <= 8 else self.gpu.network
        gradients = self.job.num_minibatches * self.job.passes * 2 * self.gradient_bytes
        vectors = 2 * self.number * self.model.width * self.job.tokens
        return (self.gpus - 1) / self.gpus * (gradients + vectors) / link

    @property
    def phase(self) -> float:
        """Rollout, scoring, learning in the largest micro-batches that fit, communication; nothing overlaps."""
        return self.rollout + self.scoring + self.learning(self.micro_batch() or None) + self.communication


def crossover(model: Model, job: Job, gpu: Gpu) -> int:
    """The fewest GPUs with which rollouts take as long as all the rest; 0 where none of up to one a completion do."""
    cases = (Sizing(model, n, job, gpu) for n in range(1, job.rows + 1))
    return next((case.gpus for case in cases if 2 * case.rollout >= case.phase), 0)


SMOLLM2_135M = Model("SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", 30, 576, 9, 3, 1536, 49_152)
SMOLLM2_1_7B = Model("SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B-Instruct", 24, 2048, 32, 32, 8192, 49_152)
QWEN2_5_0_5B = Model("Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct", 24, 896, 14, 2, 4864, 151_936, has_bias=True)
QWEN2_5_1_5B = Model("Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct", 28, 1536, 12, 2, 8960, 151_936, has_bias=True)
QWEN2_5_7B = Model("Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", 28, 3584, 28, 4, 18944, 152_064, tied=False, has_bias=True)
QWEN3_0_6B = Model("Qwen3-0.6B", "Qwen/Qwen3-0.6B", 28, 1024, 16, 8, 3072, 151_936, head_width=128, has_head_norms=True)
MODELS = (SMOLLM2_135M, QWEN2_5_0_5B, QWEN3_0_6B, QWEN2_5_1_5B, QWEN2_5_7B)
COUNTS = (1, 8, 64)
RTX4090 = Gpu("RTX 4090", 24e9, 165e12, 1.008e12, nvlink=32e9, float32=82.6e12)  # bfloat16 summed in float32; PCIe 4
SMALL = Job(prompts=8, group=8)  # what the recipes do in a phase


def gb(number: float) -> str:
    """Bytes as GB."""
    return f"{number / 1e9:,.1f}" if number < 99.5e9 else f"{number / 1e9:,.0f}"


def sec(number: float) -> str:
    """Seconds to two digits."""
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}" if number >= 0.995 else f"{number:.2g}"


def data_sheet(gpu: Gpu) -> str:
    """Memory, arithmetic and bandwidth."""
    return f"{gpu.memory / 1e9:.0f} GB, {gpu.flops / 1e12:.0f} TFLOP/s, {gpu.bandwidth / 1e12:.3g} TB/s"


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


def fitted(case: Sizing) -> str:
    """The micro-batch that fits, and what learning then takes."""
    rows = case.micro_batch()
    if rows == case.minibatch:
        return "not needed"
    return f"{rows}: {gb(case.learning_memory(rows))}" if rows else "none fits"


def memory_table(gpu: Gpu) -> str:
    """Peaks of the three parts of a phase; bold: more than the GPU has."""
    rows = []
    for case in cases(gpu):
        plain, checkpointed = case.learning_memory(case.minibatch), case.learning_memory(case.minibatch, checkpointed=True)
        parts = (case.kept, case.rollout_memory, case.scoring_memory(case.rows), plain, checkpointed)
        sizes = [gb(part) if part < gpu.memory else f"**{gb(part)}**" for part in parts]
        rows.append((case.model.name, case.gpus, f"{case.rows:.0f}", *sizes, fitted(case)))
    heads = ("model", "GPUs", "rows each", "kept", "rollout", "scoring", "learning", "checkpointed", "micro-batch")
    return table(heads, rows)


def time_table(gpu: Gpu) -> str:
    """Seconds of a phase, part by part."""
    rows = []
    for case in cases(gpu):
        parts = (case.rollout, case.scoring, case.learning(case.micro_batch() or None), case.communication, case.phase)
        rows.append((case.model.name, case.gpus, *map(sec, parts), f"{case.rollout / case.phase:.0%}"))
    return table(("model", "GPUs", "rollout", "scoring", "learning", "communication", "phase", "rollout's share"), rows)


def rollout_table(gpu: Gpu) -> str:
    """What a rollout's time is made of, and what another sampler could gain."""
    rows = []
    for case in cases(gpu):
        rest = case.phase - case.rollout
        within, apart = case.vllm_rollout + rest, max(case.vllm_rollout, rest)
        parts = (case.weights_seconds, case.decode_seconds, case.cache_seconds, case.draw_seconds, case.kernel_seconds)
        times = map(sec, (*parts, case.rollout, case.vllm_rollout))
        rows.append((case.model.name, case.gpus, *times, f"{case.phase / within:.1f}x", f"{case.phase / apart:.1f}x"))
    heads = ("model", "GPUs", "weights", "arithmetic", "cache", "drawing", "kernels", "own loop", "vLLM")
    return table((*heads, "a phase gains", "overlapped, at most"), rows)


def single_table(gpus: tuple[Gpu, ...]) -> str:
    """What a small phase takes on one GPU, by GPU and model."""
    rows = []
    for gpu in gpus:
        for model in (*MODELS[:-1], SMOLLM2_1_7B, MODELS[-1]):
            case = Sizing(model, 1, SMALL, gpu)
            parts = (case.states, case.rollout_memory, case.scoring_memory(case.rows), case.learning_memory(case.minibatch))
            sizes = [gb(part) if part < gpu.memory else f"**{gb(part)}**" for part in parts]
            fits = case.micro_batch() and case.rollout_memory < gpu.memory
            seconds = (case.rollout, case.scoring, case.learning(case.micro_batch()), case.phase) if fits else ()
            times = [*map(sec, seconds), *[""] * (4 - len(seconds))]
            rows.append((f"{gpu.memory / 1e9:.0f} GB", model.name, *sizes, fitted(case) if fits else "none fits", *times))
    heads = (
        "GPU",
        "model",
        "states",
        "rollout",
        "scoring",
        "learning",
        "micro-batch",
        "rollout, s",
        "scoring, s",
        "learning, s",
    )
    return table((*heads, "phase, s"), rows)


def shared_values(gpu: Gpu) -> dict[str, object]:
    """What the page says of the GPU and the batch."""
    job = Job()
    whole = [gb(Sizing(QWEN2_5_0_5B, n, gpu=gpu).logits(job.rows / n, whole=True)) for n in COUNTS]
    return {
        "gpu": f"{gpu.name}: {data_sheet(gpu)}",
        "links": f"NVLink {gpu.nvlink / 1e9:.0f} GB/s, network {gpu.network / 1e9:.0f} GB/s a GPU",
        "rows": f"{job.rows:,}",
        "batch": f"{job.prompts} prompts x {job.group}",
        "minibatches": job.num_minibatches,
        **{name: getattr(job, name) for name in ("prompt", "gen_len", "mean", "rank", "passes")},
        "reached": f"{REACHED:.0%}",
        "streamed": f"{STREAMED:.0%}",
        "kernels": f"{KERNELS} kernels a layer, none shorter than {KERNEL * 1e6:.0f} µs",
        "head_norm_kernels": HEAD_NORM_KERNELS,
        "launches": f"{LAUNCHES} launches of {LAUNCH * 1e6:.0f} µs",
        "vllm_kernels": VLLM_KERNELS,
        "chunk": gb(CHUNK_BYTES * CHUNK),
        "packed": f"{job.packed:.0f}",
        "drawing": DRAWING,
        "scored": SCORING,
        "learned": LEARNING * job.evaluations,
        "whole": f"{whole[0]} GB on one GPU, {whole[1]} on each of 8, {whole[2]} on each of 64",
        "balance": f"{gpu.balance:.0f}",
        "busy": f"{job.rows / gpu.balance:.0f}",
        "crossovers": ", ".join(f"{crossover(m, job, gpu) or 'never'} ({m.name})" for m in MODELS),
        "captures": ", ".join(sec(Sizing(m, 1, gpu=gpu).capture) for m in MODELS),
        "paged": f"{Sizing(MODELS[-1], 1, gpu=gpu).cache / Sizing(MODELS[-1], 1, gpu=gpu).paged_cache:.1f}",
        "single_gpus": " and ".join(f"an {g.name} ({data_sheet(g)})" for g in (RTX4090, gpu)),
        "single_batch": f"{SMALL.rows} completions, {SMALL.prompts} prompts x {SMALL.group}",
        "single_table": single_table((RTX4090, gpu)),
        "states_table": states_table(gpu),
        "memory_table": memory_table(gpu),
        "time_table": time_table(gpu),
        "rollout_table": rollout_table(gpu),
    }


def worked_values(case: Sizing) -> dict[str, object]:
    """The numbers of the worked example."""
    micro, whole = case.micro_batch(), case.learning_memory(case.minibatch)
    learning, micro_seconds = case.learning(), case.learning(micro or None)
    return {
        "x_name": case.model.name,
        "x_hub": case.model.hub,
        "x_states": gb(case.states),
        "x_rows": f"{case.rows:.0f}",
        "x_slots": case.slots,
        "x_token": f"{case.cache_per_token:,.0f}",
        "x_cache": gb(case.cache),
        "x_kept": gb(case.kept),
        "x_merge": gb(case.merge_copy),
        "x_rollout": gb(case.rollout_memory),
        "x_vectors": gb(case.scored_vectors),
        "x_scoring": gb(case.scoring_memory(case.rows)),
        "x_minibatch": f"{case.minibatch:.0f}",
        "x_prompts": f"{case.minibatch_prompts:.0f}",
        "x_cuts": f"{case.minibatch / micro - 1:.0f}" if micro else "no",
        "x_layer": f"{case.activation_per_token / 1e3:.0f}",
        "x_learning": gb(whole),
        "x_verdict": "too much" if whole > 0.9 * case.gpu.memory else "which fits",
        "x_micro": f"{micro:.0f}",
        "x_fitted": gb(case.learning_memory(micro)),
        "x_checkpointed": gb(case.learning_memory(case.minibatch, checkpointed=True)),
        "x_more": sec(micro_seconds - learning),
        "x_extra": sec(case.learning(checkpointed=True) - learning),
        "x_times": f"{sec(case.rollout)} + {sec(case.scoring)} + {sec(micro_seconds)} s",
        "x_gradient": f"{case.gradient_bytes / 1e6:.0f}",
        "x_communication": sec(1000 * case.communication),
        "x_phase": sec(case.phase),
        "x_floor": sec(case.floor),
        "x_read": gb(2 * case.model.multiplied),
        "x_weights": sec(case.weights_seconds),
        "x_kernels": sec(case.kernel_seconds),
    }


def page(gpu: Gpu) -> str:
    """The page, with the largest model that fits on 8 GPUs as the worked example."""
    eights = [Sizing(model, 8, gpu=gpu) for model in MODELS]
    fitting = [case for case in eights if case.micro_batch() and case.rollout_memory < gpu.memory]
    return PAGE.format(**shared_values(gpu), **worked_values((fitting or eights[:1])[-1]))


PAGE = """# What GRPO takes: one GPU, eight, sixty-four

Computed, not measured, by `python benchmarks/sizing.py`; the formulas are the short functions of
`benchmarks/arithmetic.py`. The paths on CUDA were written for this and their steps tested on a CPU; no GPU has run them
yet.

| | |
|---|---|
| GPU | {gpu} (dense bfloat16); {links} |
| phase | {rows} completions ({batch}), prompts of {prompt} tokens, gen_len {gen_len}, mean length {mean} |
| training | LoRA rank {rank} on all maps, bfloat16 base, {minibatches} minibatches, {passes} passes over the completions |
| taken to be reached | {reached} of the arithmetic, {streamed} of the bandwidth |
| a decoding step | one CUDA graph ({kernels}; {head_norm_kernels} more with norms of heads), and {launches} |

For another GPU, `python benchmarks/sizing.py --gpu H100 --gigabytes 80 --teraflops 989 --terabytes-per-second 3.35 --nvlink
450 --network 50` prints this page with its numbers.

Data parallel (torchrun): every GPU has all weights and knows the whole phase; it samples, scores and learns from its share
of the rows. Numbers a token and gradients are summed, each GPU takes the same step. In the formulas, N: parameters, U:
those of the unembedding, A: of the adapters, d: width, f: width of the MLP, q and kv: width of a token's queries and keys,
g: heads that share keys, P: prompt, m: mean completion, M: a completion packed in a pass ({packed}: four rectangles of
similar length, lengths spread evenly), n: GPUs, rows: completions on a GPU.

## On every GPU, whatever their number (GB)

{states_table}

The merge copy exists during rollouts only: 2 bytes for every number of the adapted maps, so that adapters are taken out
again bit for bit. The reference policy is the model without adapters and costs nothing. More GPUs shrink none of this.

## Memory of a phase, GB on each GPU

{memory_table}

Each column is the peak of that part, everything included; bold is more than the GPU has. *Kept* is what a rollout leaves
for the next one, and is in every column. *Scoring* and *learning* are of all rows and of a whole minibatch at once;
*checkpointed* is learning with `--checkpoint-activations`; *micro-batch* is the largest `--micro-batch-size` (a power of
two) with which scoring and learning leave a tenth of the memory free, and what learning then takes.

| part | bytes |
|---|---|
| kept | rows (P + gen_len, rounded up to 64) x cache a token + graphs x rows (12 f + 10 d) + 2 d rows gen_len |
| cache a token | 2 x layers x kv x 2; room for the cap in every row, prompt included |
| rollout | 2 N + 16 A + kept + merge copy + 18 rows vocab + 4 d rows gen_len |
| scoring | 2 N + 16 A + kept + (12 f + 10 d) a token, one layer at a time + 6 d for every token of the phase |
| learning | a token and layer: 36 d + 8 q + 10 f + 4 kv (1 + P/M) + 2 g (P + M) + 28 rank; 10 d a token of the minibatch |
| norms of heads | 8 (q + kv) more a token and layer, in learning (Qwen3) |
| checkpointed | a token and layer: 2 d, and one layer in full |
| logits | 21 a number (float32, five copies), in chunks: {chunk} GB at most |

The 6 d of scoring do not shrink with GPUs: each gets everyone's vectors. Whole logits of a phase would take {whole}, for
a vocabulary of 151,936. Activations are for lengths spread evenly: completions that all run to the cap take (P + gen_len)
/ (P + M) times as much. Of 36 d + 8 q + 10 f, 36 d + 4 q + 4 f are float32 inputs of adapters and norms.

## Time of a phase, seconds

{time_table}

| part | seconds |
|---|---|
| rollout | the larger of weights and arithmetic, + cache + drawing + kernels; the table below has each |
| weights | gen_len x 2 N / (bandwidth x {streamed}): each step reads all of them |
| arithmetic | 2 N (prompts P + rows gen_len) / (peak x {reached}): rows that have ended stay in the graph |
| cache, drawing | rows gen_len x (cache a token x (P + gen_len/2); {drawing} bytes x vocab) / (bandwidth x {streamed}) |
| one pass | (4 (N - U) x tokens + 12 U x rows m) / (peak x {reached}) + rows m vocab x bytes / (bandwidth x {streamed}) |
| scoring | one of these, at {scored} bytes a logit: policy and reference |
| learning | one for each pass over the completions, at {learned} bytes a logit |
| micro-batches, checkpointed | 6 (N - U) in place of 4: layers are computed once more |
| communication | (n - 1)/n x (steps x 8 A + 4 d x tokens of the phase) / link; NVLink up to 8 GPUs, then network |

Tokens: M for each of a GPU's rows, and P for each distinct prompt. Rollout and scoring read a GPU's prompts once. A
minibatch is drawn at random, so a GPU's share of it has prompts (1 - (1 - share)^group) of them, read once;
micro-batches are sorted by prompt, so each cut reads one anew at most. In float32, without a value head, scoring needs
no pass of the policy: the vectors that tokens were sampled from serve. The bytes a logit are log-softmax, entropy and
KL, each written out number by number. N is what a token is multiplied with: an untied embedding is only looked up. A
graph is captured once for each 64 slots and batch shape: {captures} s for the models in turn, at first and after
an evaluation.
Left out: attention's own arithmetic (under 4%), the adapters' (under 2% of the operations, but in float32: up to a
fifth more time on 0.5B), and launches of small passes. Some row takes all {gen_len} steps, and all GPUs wait. Where no
size fits the memory, times are as if it did.

## One GPU, of 24 GB or more

A smaller phase, as in the library's recipes: {single_batch}; lengths and everything else as above.
On {single_gpus}.

{single_table}

*States* are weights, adapters and AdamW; the other columns are as above. Where the micro-batch is the whole minibatch, none is
needed.

## Worked example: {x_name} on 8 GPUs

1. Weights, adapters and AdamW: {x_states} GB on each GPU.
2. Rollout: {x_rows} rows x {x_slots} slots x {x_token} bytes = {x_cache} GB of cache, {x_kept} GB with graphs and vectors,
   which stay; {x_merge} GB of merge copy; {x_rollout} GB in all.
3. Scoring: {x_vectors} GB for all GPUs' vectors, {x_scoring} GB in all.
4. Learning: a minibatch is {x_minibatch} rows here, of {x_prompts} prompts; a token keeps {x_layer} kB a layer:
   {x_learning} GB, {x_verdict}. `--micro-batch-size {x_micro}` takes {x_fitted} GB: {x_cuts} cuts, each prompt read about
   once, layers computed twice, {x_more} s more a phase. `--checkpoint-activations` takes {x_checkpointed} GB for the whole
   minibatch, and {x_extra} s more.
5. Time, with micro-batches: {x_times} for rollout, scoring and learning; {x_gradient} MB of gradient a step,
   {x_communication} ms of communication a phase; {x_phase} s in all.

       torchrun --nproc-per-node 8 -m rlhf_lib train grpo --task gsm8k --base-model {x_hub} \\
         --dtype bfloat16 --lora-rank 16 --batch-size 1024 --group-size 16 --gen-len 512 --num-minibatches {minibatches} \\
         --batches-per-learning-phase {passes} --micro-batch-size {x_micro}

## When to move rollouts to vLLM servers

Scoring, learning, and a rollout's arithmetic, cache and drawing shrink with the number of GPUs. With one graph a step the
launches are gone; what remains whatever the number of GPUs is

    floor = weights + kernels = {x_weights} + {x_kernels} = {x_floor} s for {x_name}, whose {x_read} GB are read {gen_len} times

So rollouts come to take longer than all the rest, from so many GPUs on: {crossovers}.
Steps wait for memory as soon as a GPU has fewer rows than it multiplies in the time that it reads the weights once, peak
arithmetic / bandwidth = {balance}: {rows} completions keep {busy} GPUs busy.

{rollout_table}

- **vLLM on the same GPU** (`--sampler vllm`, one process so far) lets rows leave when they end, so arithmetic, cache and
  drawing are of m tokens in place of gen_len, and fuses kernels (taken: {vllm_kernels} a layer). Its paged cache is {paged}
  times smaller, but a second copy of the weights, 2 N, comes out of `--sampler-memory`. Worth it for small models and for
  completions that mostly end early; *a phase gains* says how much.
- **vLLM servers, on GPUs of their own** (`--sampler vllm-server`, several processes) are worth it where rollouts take longer
  than the rest: a few GPUs (rows / {balance} = {busy}) then sample. The others could learn from the phase before meanwhile,
  but wait so far; *overlapped* is the most that this could gain. It shrinks the floor no more than GPUs do: tensor parallelism
  over t GPUs divides its weights by t.
- What has to travel decides nothing: an adapter, 4 A bytes a phase ({x_gradient} MB for {x_name}), not 2 N.
- The sampler's probabilities are not quite the trainer's, and overlapped rollouts are a phase old besides. Watch
  `sampler_gap`, `sampler_weight` and `sampler_capped`; the correction (`--sampler-cap`, truncated importance sampling, Yao
  et al. 2025) is on.
"""
