"""The sampler that is a server: what it is told over HTTP, whom it serves, and what is said when it will not or cannot."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlhf_lib import cli
from rlhf_lib.args import GrpoArgs, InputError
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.samplers import VllmServerSampler

PROMPTS = ["Anna has", "Anna has", "Ben"]


def rollout(model, *given, **sampling):
    """A rollout by the sampler that goes with the policy."""
    return model.sampler.rollout(model, *given, **sampling)


@pytest.fixture
def policy(model_dirs):
    return TransformerWithLora(model_dirs["llama"], rank=3, device="cpu")


@pytest.fixture
def sampled_by(policy, server):
    """The policy, sampled by the server."""
    policy.sampler = VllmServerSampler(policy, server.url)
    server.calls.clear()
    server.bodies.clear()
    return policy


def train_words(server, model_dirs, out, phases=3):
    """A command that trains."""
    words = (
        f"train grpo --sampler vllm-server --device cpu --gen-len 6 --batch-size 4 --num-minibatches 1 --total-phases {phases}"
    )
    few = "--warmup-steps 0 --eval-problems 0 --log-samples-every 0 --save-every 1 --prefix Anna"
    where = ["--sampler-url", server.url, "--base-model", str(model_dirs["llama"]), "--output-dir", str(out)]
    return [*words.split(), *few.split(), *where]


class TestWhatItIsTold:
    def test_everything_that_shapes_the_distribution(self, sampled_by, server):
        """Left out, vLLM would take it from the model's generation settings."""
        rollout(sampled_by, PROMPTS, 5, temperature=0.7)
        body = next(body for body in server.bodies if body["n"] == 2)
        assert body == {
            "model": server.calls.adapters[0].lora_name,
            "prompt": sampled_by.to_tokens("Anna has")[0].tolist(),
            "n": 2,
            "seed": None,
            "temperature": 0.7,
            "top_k": -1,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "max_tokens": 5,
            "stop_token_ids": sampled_by.end_ids,
            "ignore_eos": True,
            "logprobs": 0,
            "skip_special_tokens": False,
            "return_token_ids": True,
        }

    def test_adapters_are_unloaded(self, sampled_by, server):
        rollout(sampled_by, PROMPTS, 2)
        assert server.loaded == {}

    def test_adapters_are_unloaded_after_a_failure_too(self, sampled_by, server):
        server.troubles["/v1/completions"] = (500, "EngineCore encountered an issue.")
        with pytest.raises(InputError, match=r"answered 500 \(EngineCore encountered an issue.\)"):
            rollout(sampled_by, PROMPTS, 2)
        assert server.loaded == {}
        assert not Path(server.calls.adapters[0].lora_path).exists()

    def test_two_trainers_never_use_the_same_name(self, policy, server):
        for _ in range(2):
            policy.sampler = VllmServerSampler(policy, server.url)
            rollout(policy, PROMPTS, 2)
        assert len({adapter.lora_name for adapter in server.calls.adapters}) == 4

    def test_the_directory(self, policy, server, tmp_path):
        """It is made, read by whoever the server is, and left empty."""
        seen = []

        def look(handler):
            (adapter,) = (tmp_path / "shared").iterdir()
            seen.append((adapter / "adapter_model.safetensors").is_file() and stat.S_IMODE(adapter.stat().st_mode) == 0o755)

        server.troubles["/v1/completions"] = look
        VllmServerSampler(policy, server.url, tmp_path / "shared")
        assert seen == [True] * 4
        assert list((tmp_path / "shared").iterdir()) == []
        assert all(Path(adapter.lora_path).parent == tmp_path / "shared" for adapter in server.calls.adapters)

    def test_the_address_and_the_key(self, policy, server, monkeypatch):
        keys = set()
        server.troubles["/v1/models"] = lambda handler: keys.add(handler.headers["Authorization"])
        monkeypatch.setenv("VLLM_API_KEY", "secret")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        VllmServerSampler(policy, f"{server.url}/v1/")
        assert keys == {"Bearer secret"}


class TestWhatIsRefusedAtTheStart:
    """Before anything is trained, each with what to do."""

    def refused(self, policy, url, **options):
        with pytest.raises(InputError) as caught:
            VllmServerSampler(policy, url, **options)
        return str(caught.value)

    def test_nobody_there(self, policy):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            said = self.refused(policy, f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "no server answers at sampler_url='http://127.0.0.1:" in said
        assert f"vllm serve {policy.base.name} --enable-lora --max-lora-rank 8 --logprobs-mode processed_logprobs" in said
        assert "--sampler own" in said

    @pytest.mark.parametrize("text", ["It works!", "[]", '{"data": []}', '{"data": [{}]}', "\xff"])
    def test_something_else_there(self, policy, server, text):
        server.troubles["/v1/models"] = (200, text)
        assert "is no vLLM server" in self.refused(policy, server.url)

    def test_another_model(self, policy, server):
        server.calls.gap = 5.3
        said = self.refused(policy, server.url)
        assert "differ by 5.3 nats a token, over 0.5" in said
        assert f"start it on {policy.base.name}" in said

    def test_a_model_of_more_tokens(self, policy, server):
        def answer(handler):
            choice = {"index": 0, "token_ids": [600] * 8, "finish_reason": "length", "logprobs": {"token_logprobs": [-1.0] * 8}}
            return 200, json.dumps({"choices": [choice]})

        server.troubles["/v1/completions"] = answer
        said = self.refused(policy, server.url)
        assert "gave token 600" in said
        assert "has 512 tokens" in said

    def test_log_probabilities_of_raw_logits(self, policy, server):
        server.calls.raw = True
        assert "start it with --logprobs-mode processed_logprobs" in self.refused(policy, server.url)

    @pytest.mark.parametrize(
        ("status", "text", "said"),
        [
            (404, "Not Found", "it takes none while it runs"),
            (404, "Loading lora a failed: No adapter found for <path>", "give --sampler-directory"),
            (500, "Worker failed with error 'LoRA rank 3 is greater than max_lora_rank 1.'", "--max-lora-rank 8"),
            (500, "LoRA is not enabled. Use --enable-lora to enable LoRA.", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve"),
        ],
    )
    def test_adapters(self, policy, server, status, text, said):
        server.troubles["/v1/load_lora_adapter"] = (status, text)
        assert said in (whole := self.refused(policy, server.url))
        assert text in whole or "finds no adapter in" in whole or text == "Not Found"

    def test_a_directory_that_cannot_be(self, policy, server, tmp_path):
        (tmp_path / "file").write_text("")
        said = self.refused(policy, server.url, directory=tmp_path / "file")
        assert "sampler_directory" in said
        assert "cannot be written to" in said

    @pytest.mark.parametrize("choice", [{}, {"index": 0, "token_ids": None, "logprobs": {"token_logprobs": [-1.0]}}])
    def test_a_version_without_token_ids(self, policy, server, choice):
        server.troubles["/v1/completions"] = (200, json.dumps({"choices": [{"finish_reason": "length", **choice}]}))
        assert "vllm>=0.32,<0.33" in self.refused(policy, server.url)

    def test_a_text_for_an_answer(self, policy, server):
        server.troubles["/v1/completions"] = (200, "busy")
        assert "gave no token ids" in self.refused(policy, server.url)

    def test_a_slow_one(self, policy, server):
        server.troubles["/v1/completions"] = lambda handler: time.sleep(1.5)
        said = self.refused(policy, server.url, timeout=0.5)
        assert "no answer within sampler_timeout=0.5 seconds" in said
        assert "raise --sampler-timeout" in said

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"sampler_url": "127.0.0.1:8000"}, "sampler_url='127.0.0.1:8000' must begin with http://"),
            ({"sampler_timeout": 0.0}, "sampler_timeout=0.0"),
            ({"sampler": "vllm-server", "dtype": "4bit"}, "sampler='vllm-server' does not sample dtype='4bit'"),
            ({"sampler": "vllm-server", "temperature": 3.0}, "temperature=3.0.*0.01 to 2"),
        ],
    )
    def test_arguments(self, given, message):
        with pytest.raises(InputError, match=message):
            GrpoArgs(**given)


def test_a_context_that_is_shorter_than_the_models(policy, server):
    server.context = 20
    policy.sampler = VllmServerSampler(policy, server.url)
    assert rollout(policy, ["Anna"], 16).mask.shape == (1, 16)
    with pytest.raises(InputError, match=r"gen_len=40, together over the 20 .*--max-model-len 4\d or more"):
        rollout(policy, ["Anna"], 40)


class TestTraining:
    def test_a_server_that_dies_loses_nothing(self, server, model_dirs, tmp_path, capsys):
        """In the second phase; the run goes on elsewhere, from what the first left."""
        asked = []

        def die(handler):
            asked.append(handler)
            if len(asked) == 6:  # four prompts of the probe, one of each phase
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)

        server.troubles["/v1/completions"] = die
        assert cli.main(train_words(server, model_dirs, tmp_path / "run")) == 2
        said = capsys.readouterr().err
        assert "is gone" in said
        assert "--resume" in said
        assert "Traceback" not in said
        server.troubles.clear()
        assert cli.main(["train", "grpo", "--resume", "--output-dir", str(tmp_path / "run"), "--sampler-timeout", "60"]) == 0
        records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [record["phase"] for record in records] == [0, 1, 2]
        assert [abs(record["sampler_gap"]) < 1e-4 for record in records] == [True] * 3
        assert server.loaded == {}

    @pytest.mark.slow
    def test_two_processes_share_a_server(self, server, model_dirs, tmp_path):
        """The first sends the adapters, each asks for its own rows, and both learn from all of them."""
        environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rlhf_lib"]
        done = subprocess.run(
            [sys.executable, *words, *train_words(server, model_dirs, tmp_path / "run", 2)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["processes"] == 2
        records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [abs(record["sampler_gap"]) < 1e-4 for record in records] == [True] * 2
        assert len(server.calls.adapters) == len({adapter.lora_name for adapter in server.calls.adapters}) == 3
        assert [sum(asked.n for asked in phase) for phase in server.calls.parameters] == [4] * 3
        assert [len(phase) for phase in server.calls.parameters] == [4, 2, 2]
        assert server.loaded == {}


def test_resumed_elsewhere(model_dirs):
    """Address, directory and patience belong to the machine, not to the run."""
    from rlhf_lib.runs.directory import RESUMABLE

    assert {"sampler_url", "sampler_directory", "sampler_timeout"} <= set(RESUMABLE)


def test_a_seed_for_every_request(sampled_by, server):
    for _ in range(2):
        rollout(sampled_by, PROMPTS, 3, generator=torch.Generator().manual_seed(5))
    first, second = ({tuple(b["prompt"]): b["seed"] for b in server.bodies[i : i + 2]} for i in (0, 2))
    assert first == second
    assert len(set(first.values())) == 2
