"""vLLM itself, in the process and as a server, on the bundled model: what the stand-in claims of it (vllm_environment.sh)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_lib import cli
from rlhf_lib.args import InputError
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.rollouts import rollout as own
from rlhf_lib.rollouts import take, truncate_logits
from rlhf_lib.samplers import VllmSampler, VllmServerSampler
from rlhf_lib.samplers.connection import Connection
from rlhf_lib.samplers.outside import refuse_unfit

pytestmark = pytest.mark.vllm

PROMPTS = ["Anna has", "Anna has", "Question: Ben has 3 keys.", "Anna has"]
ENVIRONMENT = {  # all in this process, one thread, one gigabyte for keys and values
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
SERVED = {"--max-lora-rank": "8", "--logprobs-mode": "processed_logprobs", "--dtype": "float32", "--max-model-len": "128"}
CLOSE = {"atol": 2e-4, "rtol": 1e-4}  # float32, other kernels


class Served:
    """`vllm serve` on a free port of 127.0.0.1, until `stop`."""

    def __init__(self, folder, *flags, updating="True", **changes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(BUNDLED["pocket"]), "--host", "127.0.0.1"]
        options = [word for pair in {**SERVED, **changes}.items() for word in pair]
        self.url, self.log = f"http://127.0.0.1:{port}", folder / f"serve-{port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words, "--port", str(port), *options, *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **ENVIRONMENT, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": updating},
            )
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def wait(self):
        """Until it answers, at most five minutes."""
        for _ in range(300):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                return Connection(self.url, 10.0).ask("/health")
            except InputError:
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-3000:])

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module", autouse=True)
def _environment():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server as the README starts it, with a shorter context."""
    server = Served(tmp_path_factory.mktemp("served"), "--enable-lora")
    yield server
    server.stop()


def randomise(model, seed=0):
    """Adapters that change every token's probabilities."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.lora_params():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.fixture(scope="module")
def model():
    return TransformerWithLora("pocket", rank=3, device="cpu")


@pytest.fixture(scope="module")
def engine(model):
    return VllmSampler(model, seed=7)


@pytest.fixture(params=["vllm", "vllm-server"])
def policy(request, model):
    """The bundled model with adapters, sampled by each of the two."""
    model.sampler = None
    randomise(model)
    if request.param == "vllm":
        model.sampler = request.getfixturevalue("engine")
    else:
        model.sampler = VllmServerSampler(model, request.getfixturevalue("served").url)
    yield model
    model.sampler = None


def rollout(model, *given, **sampling):
    """A rollout by the sampler that goes with the policy."""
    return model.sampler.rollout(model, *given, **sampling)


@torch.no_grad()
def next_logits(model, sampled):
    """The trainer's logits from which each generated token was drawn [batch gen vocab]."""
    gen_len = sampled.mask.shape[1]
    logits, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask)
    return logits[:, -gen_len - 1 : -1]


def scored(model, sampled, temperature, top_k=None, top_p=None):
    """Log-probabilities of the sampled tokens after truncation, by the plain formula."""
    logits = next_logits(model, sampled)
    flat = truncate_logits(logits.flatten(0, 1) / temperature, top_k, top_p).log_softmax(-1).view_as(logits)
    return take(flat, sampled.ids[:, sampled.prefix_len :]).masked_fill(sampled.mask == 0, 0.0)


class TestTheRollout:
    def test_greedy_equals_our_own(self, policy):
        """Ids, masks, log-probabilities, padding and texts; the adapters arrive."""
        theirs, ours = rollout(policy, PROMPTS, 24, temperature=0.0), own(policy, PROMPTS, 24, temperature=0.0)
        for part in fields(theirs):
            a, b = getattr(theirs, part.name), getattr(ours, part.name)
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, **CLOSE)
            else:
                assert a == b

    @pytest.mark.parametrize(
        ("temperature", "top_k", "top_p"),
        [(1.0, None, None), (0.7, None, None), (1.0, 3, None), (1.3, None, 0.6), (0.8, 20, 0.9)],
    )
    def test_log_probabilities(self, policy, temperature, top_k, top_p):
        """Both columns are the trainer's formula, before truncation and after it."""
        sampled = rollout(policy, PROMPTS, 16, temperature=temperature, top_k=top_k, top_p=top_p)
        torch.testing.assert_close(sampled.logprobs, scored(policy, sampled, temperature), **CLOSE)
        torch.testing.assert_close(sampled.sampler_logprobs, scored(policy, sampled, temperature, top_k, top_p), **CLOSE)
        assert sampled.sampler_logprobs.isfinite().all()

    def test_tokens_are_drawn_from_what_is_scored(self, policy):
        """The mean log-probability of 600 first tokens is minus the entropy, within five standard errors."""
        sampled = rollout(policy, ["Anna has"] * 600, 1, stop_at_eos=False)
        logprobs = next_logits(policy, sampled)[0, 0].log_softmax(-1)
        mean = (logprobs.exp() * logprobs).sum()
        deviation = (logprobs.exp() * (logprobs - mean) ** 2).sum().sqrt()
        assert abs(sampled.sampler_logprobs.mean() - mean) < 5 * deviation / 600**0.5

    def test_groups_differ_within(self, policy):
        sampled = rollout(policy, ["Anna has"] * 4 + ["Ben"] * 4, 12)
        for group in (sampled.ids[:4], sampled.ids[4:]):
            assert len({tuple(row) for row in group.tolist()}) == 4

    def test_ends_and_padding(self, policy, monkeypatch):
        """Over many samples some end early: the end is real, padding follows, and log-probabilities are of real tokens."""
        monkeypatch.setattr(policy, "end_ids", list(range(0, policy.cfg.d_vocab, 8)))
        sampled = rollout(policy, PROMPTS * 4, 10, temperature=0.8)
        assert sum(sampled.ended) > 0
        for row, length in zip(sampled.ids[:, sampled.prefix_len :].tolist(), sampled.lengths.int().tolist(), strict=True):
            assert not any(token in policy.end_ids for token in row[: length - 1])
            assert length == 10 or row[length - 1] in policy.end_ids
        assert torch.equal(sampled.attention_mask[:, sampled.prefix_len :].float(), sampled.mask)
        torch.testing.assert_close(sampled.logprobs, scored(policy, sampled, 0.8), **CLOSE)

    def test_no_end_where_none_is_asked_for(self, policy):
        """Not even at the model's own end of sequence, which is likely here."""
        prompts = ["Question: Ben has 3 keys. He buys 2 keys. How many keys does Ben have now?\nAnswer:"] * 8
        with torch.no_grad():
            for parameter in policy.lora_params():
                parameter.zero_()
        assert own(policy, prompts, 60).ended.count(True) > 4
        assert rollout(policy, prompts, 60, stop_at_eos=False).mask.all()

    def test_a_generator_makes_it_repeatable(self, policy):
        a, b, c = (rollout(policy, PROMPTS, 8, generator=torch.Generator().manual_seed(i)).ids for i in (1, 1, 2))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_changed_adapters_arrive(self, policy):
        """The prompts are the same, so nothing that was kept of them may be used again."""
        texts = []
        for seed in (1, 2):
            randomise(policy, seed)
            texts.append(rollout(policy, PROMPTS, 16, temperature=0.0).completions)
            assert texts[-1] == own(policy, PROMPTS, 16, temperature=0.0).completions
            sampled = rollout(policy, PROMPTS, 16)
            torch.testing.assert_close(sampled.sampler_logprobs, scored(policy, sampled, 1.0), **CLOSE)
        assert texts[0] != texts[1]

    def test_a_rank_and_an_alpha_for_each_map(self, policy, tmp_path):
        """An adapter that peft made."""
        whole = AutoModelForCausalLM.from_pretrained(BUNDLED["pocket"])
        patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 20}}
        options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
        get_peft_model(whole, LoraConfig(task_type="CAUSAL_LM", **options, **patterns)).save_pretrained(tmp_path)
        mixed = TransformerWithLora.from_adapter(tmp_path, "pocket", device="cpu")
        refuse_unfit(mixed, "vllm")
        mixed.sampler = policy.sampler
        sampled = rollout(mixed, PROMPTS, 16)
        torch.testing.assert_close(sampled.sampler_logprobs, scored(mixed, sampled, 1.0), **CLOSE)
        assert (sampled.sampler_logprobs - scored(policy, sampled, 1.0)).abs().max() > 0.1

    def test_too_long_a_prompt_is_told_before(self, policy):
        with pytest.raises(InputError, match="over the model's context of 512"):
            rollout(policy, PROMPTS, 512)


class TestTheServer:
    def test_its_context(self, model, served):
        model.sampler = VllmServerSampler(model, served.url)
        with pytest.raises(InputError, match=r"together over the 128 that .*--max-model-len"):
            rollout(model, PROMPTS, 126)
        model.sampler = None

    def test_no_adapter_is_left(self, policy, served):
        rollout(policy, PROMPTS, 2)
        assert [card["parent"] for card in Connection(served.url, 60.0).ask("/v1/models")["data"]] == [None]

    def test_a_rank_too_large(self, served):
        with pytest.raises(InputError, match=r"rank 9 is greater than max_lora_rank 8.*--max-lora-rank 16"):
            VllmServerSampler(TransformerWithLora("pocket", rank=9, device="cpu"), served.url)

    def test_a_directory_that_it_does_not_see(self, model, served, tmp_path):
        sampler = VllmServerSampler(model, served.url)
        with pytest.raises(InputError, match=r"finds no adapter in .*--sampler-directory"):
            sampler.load("anything", tmp_path / "elsewhere")

    def test_other_weights(self, served, tmp_path):
        other = TransformerWithLora("pocket", rank=3, device="cpu")
        with torch.no_grad():
            next(other.base_model.parameters()).mul_(-2)
        with pytest.raises(InputError, match=r"differ by .* nats a token.*start it on pocket"):
            VllmServerSampler(other, served.url)

    def test_its_own_words(self, served):
        with pytest.raises(InputError, match=r"answered 400 \(Token id 99999 is out of vocabulary\)"):
            Connection(served.url, 60.0).ask("/v1/completions", {"prompt": [99999]})

    @pytest.mark.parametrize(
        ("flags", "changes", "said"),
        [
            (["--enable-lora"], {"updating": "0"}, "it takes none while it runs"),
            ([], {}, r"LoRA is not enabled.*--enable-lora"),
            (["--enable-lora"], {"--logprobs-mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ],
    )
    def test_started_otherwise(self, tmp_path, model, flags, changes, said):
        server = Served(tmp_path, *flags, **changes)
        try:
            with pytest.raises(InputError, match=said):
                VllmServerSampler(model, server.url)
        finally:
            server.stop()


def train_words(out, sampler, *more):
    words = (
        f"train grpo --task pocket --sampler {sampler} --lora-rank 4 --device cpu --gen-len 48 --batch-size 16 --group-size 4"
    )
    few = "--num-minibatches 2 --total-phases 3 --warmup-steps 0 --eval-problems 0 --log-samples-every 0 --save-every 1"
    return [*words.split(), *few.split(), "--output-dir", str(out), *more]


def records_of(run, name="metrics"):
    return [json.loads(line) for line in (Path(run) / f"{name}.jsonl").read_text().splitlines()]


def run_alone(code, *words):
    """A process of its own: an engine that ends takes down what others in its process share."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout[-3000:] + done.stderr[-6000:]


TRAIN = "import sys; from rlhf_lib import cli; sys.exit(cli.main(sys.argv[1:]))"
STOPS_IN_PHASE_2 = """
import sys
from rlhf_lib import cli
from rlhf_lib.trainers.grpo import GrpoTrainer
learn = GrpoTrainer.learning_phase
def stop(trainer, memory):
    if trainer.phase == 1:
        sys.exit(7)
    return learn(trainer, memory)
GrpoTrainer.learning_phase = stop
cli.main(sys.argv[1:])
"""
REFUSES = """
import sys
from rlhf_lib.args import InputError
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.samplers import VllmSampler
try:
    VllmSampler(TransformerWithLora(sys.argv[1], rank=3, device="cpu"))
except InputError as error:
    print("refused:", error)
"""


class TestTraining:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_in_the_process(self, dtype, tmp_path):
        """Three phases; sampler and trainer agree, the weights learn."""
        code, said = run_alone(TRAIN, *train_words(tmp_path / "run", "vllm", "--dtype", dtype, "--sampler-memory", "0.2"))
        assert code == 0, said
        records = records_of(tmp_path / "run")
        assert len(records) == 3
        limit = {"float32": 1e-4, "bfloat16": 0.02}[dtype]
        assert all(abs(record["sampler_gap"]) < limit for record in records)
        assert all(record["sampler_weight"] == pytest.approx(1.0, abs=10 * limit) for record in records)
        assert all(record["grad_norm"] > 0 for record in records)

    def test_a_run_goes_on_where_it_stopped(self, tmp_path):
        """Sampled from the same random numbers, too: vLLM draws from torch's own in one process."""
        code, said = run_alone(STOPS_IN_PHASE_2, *train_words(tmp_path / "broken", "vllm"))
        assert code == 7, said
        code, said = run_alone(TRAIN, "train", "grpo", "--resume", "--output-dir", str(tmp_path / "broken"))
        assert code == 0, said
        code, said = run_alone(TRAIN, *train_words(tmp_path / "whole", "vllm"))
        assert code == 0, said
        assert records_of(tmp_path / "broken", "samples") == records_of(tmp_path / "whole", "samples")

    def test_by_a_server(self, served, tmp_path):
        assert cli.main(train_words(tmp_path / "run", "vllm-server", "--sampler-url", served.url)) == 0
        records = records_of(tmp_path / "run")
        assert len(records) == 3
        assert all(abs(record["sampler_gap"]) < 1e-4 for record in records)

    def test_two_processes_share_a_server(self, served, tmp_path, monkeypatch):
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rlhf_lib"]
        train = train_words(tmp_path / "run", "vllm-server", "--sampler-url", served.url)
        done = subprocess.run([sys.executable, *words, *train], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["processes"] == 2
        assert all(abs(record["sampler_gap"]) < 1e-4 for record in records_of(tmp_path / "run"))
        assert [card["parent"] for card in Connection(served.url, 60.0).ask("/v1/models")["data"]] == [None]

    def test_a_server_that_dies_loses_nothing(self, served, tmp_path, capsys, monkeypatch):
        """Killed in the second phase; the run goes on with another."""
        dying = Served(tmp_path, "--enable-lora")
        complete, asked = VllmServerSampler.complete, []

        def kill(sampler, *given):
            asked.append(given)
            if len(asked) == 10:  # four prompts of the probe, four of each phase
                dying.stop()
            return complete(sampler, *given)

        monkeypatch.setattr(VllmServerSampler, "complete", kill)
        try:
            assert cli.main(train_words(tmp_path / "run", "vllm-server", "--sampler-url", dying.url)) == 2
        finally:
            dying.stop()
        assert "is gone" in (said := capsys.readouterr().err)
        assert "--resume" in said
        monkeypatch.undo()
        words = ["train", "grpo", "--resume", "--output-dir", str(tmp_path / "run"), "--sampler-url", served.url]
        assert cli.main(words) == 0
        assert [record["phase"] for record in records_of(tmp_path / "run")] == [0, 1, 2]


class TestRefusals:
    def test_heads_that_its_kernels_do_not_cover(self, model_dirs):
        """Found out at the first sampling, which is before the first phase."""
        _, said = run_alone(REFUSES, str(model_dirs["llama"]))
        assert "refused: vLLM failed at sampling (RuntimeError: Unsupported CPU attention configuration: head_dim=8" in said

    def test_an_engine_that_does_not_start(self, model_dirs):
        """GPT-2 takes no adapters there; past our own refusal, vLLM's arrives as one sentence."""
        unchecked = REFUSES.replace(
            "\ntry", "\nfrom rlhf_lib.samplers import vllm_engine\nvllm_engine.refuse_unfit = print\ntry"
        )
        _, said = run_alone(unchecked, str(model_dirs["gpt2"]))
        assert "refused: vLLM cannot start on" in said
        assert "--sampler own" in said

    def test_several_processes(self, model, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match=r"one of 2; several share a server: --sampler vllm-server"):
            VllmSampler(model)
