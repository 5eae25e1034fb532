"""The benchmarks at their tiniest: every script's main path in this process, fits on made-up data, what is skipped and why."""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import threading
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ("phase", "rollout", "scaling", "memory", "to_target", "utilisation")
TIMES = ("ours", "dynamic", "static")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class ThreadWorker:
    """Stands in for record.Worker: the same pipe, to a thread of this process, begun by the first command.

    Two threads never load models at once, which transformers does not allow.
    """

    def __init__(self, threads, work, *args, environment=None):
        self.connection, theirs = multiprocessing.Pipe()
        self.thread = threading.Thread(target=import_module("record").serve, args=(theirs, work, *args), daemon=True)

    def ask(self, command=None):
        if self.thread.ident is None:
            self.thread.start()
        self.connection.send(command)
        kind, answer = self.connection.recv()
        assert kind == "answer", answer
        return answer

    def close(self):
        self.connection.close()
        self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@pytest.fixture
def main(monkeypatch, tmp_path, capsys):
    """Runs a script's main in this process and gives (its result, what it printed)."""

    def run(name, *words):
        script, file = import_module(name), tmp_path / "result.json"
        if hasattr(script, "Worker"):
            monkeypatch.setattr(script, "Worker", ThreadWorker)
        script.main([*map(str, words), "--threads", "1", "--output", str(file)])
        return json.loads(file.read_text()), capsys.readouterr().out

    return run


def needs_linux():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is read from /proc")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        import_module(name).main(["--help"])
    assert stop.value.code == 0
    assert "--threads" in capsys.readouterr().out


def test_every_function_fits_on_a_screen():
    import ast

    for path in BENCHMARKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


class TestRecord:
    def test_every_result_tells_what_it_was_made_with(self):
        found = import_module("record").made_with(2)
        assert set(found) == {"hardware", "device", "versions", "commit", "date"}
        assert found["hardware"]["cpu"]
        assert found["hardware"]["threads"] == 2
        assert {"torch", "transformers", "rlhf_lib"} <= set(found["versions"])

    def test_what_is_missing_is_named_with_the_extra(self, monkeypatch):
        record = import_module("record")
        monkeypatch.setattr(record, "find_spec", lambda name: None if name == "trl" else name)
        assert record.missing_packages(["ours", "plain"]) is None
        message = record.missing_packages(["ours", "trl"])
        assert 'trl; pip install "rlhf_lib[bench]"' in message
        assert "--systems ours plain" in message

    def test_a_worker_answers_and_tells_its_failure(self):
        record = import_module("record")

        def work(port):
            for command in port.commands():
                port.report(10 // command)

        ours, theirs = multiprocessing.Pipe()
        thread = threading.Thread(target=record.serve, args=(theirs, work))
        thread.start()
        ours.send(5)
        assert ours.recv() == ("answer", 2)
        ours.send(0)
        kind, text = ours.recv()
        thread.join()
        assert kind == "failure"
        assert "ZeroDivisionError" in text

    def test_the_environment_is_put_back(self, monkeypatch):
        import os

        monkeypatch.setenv("RLHF_A", "1")
        with import_module("record").environment_with({"RLHF_A": "2", "RLHF_B": "3"}):
            assert (os.environ["RLHF_A"], os.environ["RLHF_B"]) == ("2", "3")
        assert os.environ["RLHF_A"] == "1"
        assert "RLHF_B" not in os.environ


class TestPhase:
    WORDS = ("--rounds", 1, "--prompts", 2, "--group", 4, "--gen-len", 4)

    def test_two_systems_take_turns(self, main):
        needs_linux()
        pytest.importorskip("peft")
        result, printed = main("phase", *self.WORDS, "--systems", "ours", "plain")
        assert json.loads(printed) == result
        assert result["ours_s"] > 0
        assert result["plain_s"] > 0
        assert result["trl_s"] is result["ratio_time"] is result["ratio_memory"] is None
        for figures in result["systems"].values():
            parts = figures["generate_s"] + figures["score_s"] + figures["learn_s"]
            assert parts == pytest.approx(figures["seconds"], abs=2e-3)
            assert 1 <= figures["length"] <= 4

    def test_trl_does_the_same_work(self, main):
        needs_linux()
        pytest.importorskip("trl", reason='TRL is not installed: pip install "rlhf_lib[bench]"')
        result, _ = main("phase", *self.WORDS, "--systems", "trl")
        assert result["trl_s"] > 0
        assert 1 <= result["systems"]["trl"]["length"] <= 4

    def test_ratios(self):
        systems = {"ours": (1.0, 30.0), "trl": (2.0, 40.0), "plain": (4.0, 60.0)}
        found = import_module("phase").compare(
            {name: {"seconds": seconds, "peak_memory_mb": memory} for name, (seconds, memory) in systems.items()}
        )
        assert (found["ours_s"], found["trl_s"], found["plain_s"]) == (1.0, 2.0, 4.0)
        assert (found["ratio_time"], found["ratio_memory"]) == (0.5, 0.75)
        assert (found["ratio_time_plain"], found["ratio_memory_plain"]) == (0.25, 0.5)

    def test_profile(self, capsys, monkeypatch):
        import torch

        class NoProfile(contextlib.AbstractContextManager):
            def __exit__(self, *error):
                pass

            def key_averages(self):
                return self

            def table(self, **options):
                return f"sorted by {options['sort_by']}"

        monkeypatch.setattr(torch.profiler, "profile", lambda **options: NoProfile())  # the real one takes seconds to start
        import_module("phase").main([*map(str, self.WORDS), "--profile", "--profile-rows", "3", "--threads", "1"])
        printed = capsys.readouterr().out
        assert "sorted by self_cpu_time_total" in printed
        assert "learn_s" in printed


class TestTheSameObjective:
    """On one minibatch all systems compute the same loss: new adapters change nothing, so that all hold the same policy."""

    @pytest.fixture
    def minibatch(self):
        """The arguments, a plain loop, and a minibatch whose old and reference policies are made to differ."""
        pytest.importorskip("peft")
        import torch

        plain = import_module("plain_loop")
        given = argparse.Namespace(prompts=4, group=4, gen_len=12, rounds=1, keep_prompts_together=False)
        loop = plain.PlainLoop(import_module("phase").phase_args(given))
        memory = loop.score(loop.sample(0))
        memory["advantages"] = torch.randn_like(memory["advantages"])
        memory["old"] = memory["old"] + 0.3 * torch.randn_like(memory["old"])
        memory["reference"] = memory["reference"] + 0.3 * torch.randn_like(memory["reference"])
        return dataclasses.replace(loop.args, gen_len=memory["mask"].shape[1]), loop, memory

    def test_ours_and_plain(self, minibatch):
        from rlhf_lib.memory import ReplayMinibatch

        args, loop, b = minibatch
        taken = ReplayMinibatch(
            b["ids"],
            b["old"],
            b["advantages"].expand_as(b["old"]),
            mask=b["mask"],
            attention_mask=b["attention_mask"],
            ref_logprobs=b["reference"],
        )
        objective = import_module("ours").GrpoTrainer(args).compute_rlhf_objective(taken)
        assert -objective.item() == pytest.approx(loop.loss(b).item(), abs=1e-5)

    def test_trl_and_plain(self, minibatch, tmp_path):
        pytest.importorskip("trl", reason='TRL is not installed: pip install "rlhf_lib[bench]"')
        args, loop, b = minibatch
        trl_side, columns = import_module("trl_side"), b["mask"].shape[1]
        callback = trl_side.PhaseOnCommand(None, steps=8, describe=dict)
        trainer = trl_side.build(args, str(tmp_path), trl_side.LastReward(), callback)
        trainer.current_gradient_accumulation_steps = 1
        inputs = {
            "prompt_ids": b["ids"][:, :-columns],
            "prompt_mask": b["attention_mask"][:, :-columns],
            "completion_ids": b["ids"][:, -columns:],
            "completion_mask": b["mask"].int(),
            "advantages": b["advantages"].squeeze(1),
            "old_per_token_logps": b["old"],
            "ref_per_token_logps": b["reference"],
            "num_items_in_batch": b["mask"].sum(),
        }
        assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(loop.loss(b).item(), abs=1e-5)


class TestRollout:
    @pytest.mark.slow
    def test_measures_skips_and_tells_why(self, main, tmp_path):
        words = ("--models", "pocket", "--batches", 1, 2, "--gen-lens", 2, 500, "--rounds", 1, "--grouped-batch", 8)
        result, printed = main("rollout", *words)
        assert [cell.get("skipped") for cell in result["cells"]] == [
            None,
            "the model's context is 512",
            None,
            "the model's context is 512",
            None,
            None,
        ]
        measured = [cell for cell in result["cells"] if "skipped" not in cell]
        assert all(cell[f"{name}_tokens_per_s"] > 0 for cell in measured for name in TIMES)
        assert result["lowest_ours_over_static"] == min(cell["ours_over_static"] for cell in measured)
        lengths = [measured[-2][f"{name}_mean_length"] for name in TIMES]
        assert lengths == pytest.approx([lengths[0]] * 3, abs=1.0)  # the same seed samples the same
        table = (tmp_path / "result.md").read_text()
        assert table in printed
        assert table.count("**") >= 4
        assert "- pocket, batch 2, gen_len 500" in table

    def test_estimates(self):
        rollout = import_module("rollout")
        probe = rollout.Probe(4, first=1.0, step=0.5)
        assert probe.estimate(gen_len=11, runs=2) == pytest.approx(12.0)
        assert probe.at(8) == rollout.Probe(8, first=2.0, step=0.5)
        assert rollout.why_skipped(11, 512, probe, runs=2, limit=12.0) is None
        assert rollout.why_skipped(11, 512, probe, runs=2, limit=11.0) == "estimated 12 s, over the limit of 11"
        assert "context" in rollout.why_skipped(481, 512, probe, runs=1, limit=1e9)
        assert rollout.why_skipped(480, 512, probe, runs=1, limit=1e9) is None

    def test_tokens_end_with_the_first_end(self):
        import torch

        tokens = torch.tensor([[5, 2, 0, 0], [2, 2, 2, 2], [5, 5, 5, 5]])
        assert import_module("rollout").count_tokens(tokens, [2]) == 2 + 1 + 4
        assert import_module("rollout").count_tokens(tokens, []) == 12

    def test_the_floor_is_what_the_weights_take_to_read(self):
        rollout = import_module("rollout")
        config = rollout.random_model_config("qwen2.5-0.5b")
        parameters = 494_000_000
        fast = rollout.Device(bandwidth=1e12, flops=1e30)
        one = rollout.floor_seconds(config, parameters, 2, batch=1, gen_len=1, device=fast)
        cache = 1 * 32 * 24 * 2 * 128
        assert one["floor_s"] == pytest.approx(2 * (parameters + cache) / 1e12)
        assert one["floor_s"] == one["bandwidth_floor_s"]
        slow = rollout.floor_seconds(config, parameters, 2, 64, 1, rollout.Device(bandwidth=1e30, flops=1e12))
        assert slow["floor_s"] == slow["arithmetic_floor_s"]
        body = parameters - 151_936 * 896
        assert slow["floor_s"] == pytest.approx(64 * (32 * (2 * body + 4 * 24 * 896 * 16) + 2 * 151_936 * 896) / 1e12)

    def test_the_shapes_are_those_of_the_models(self):
        import torch
        from transformers import AutoModelForCausalLM

        counts = {}
        for name in ("gpt2-small", "qwen2.5-0.5b"):
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(import_module("rollout").random_model_config(name))
            counts[name] = sum(p.numel() for p in model.parameters()) / 1e6
        assert counts == pytest.approx({"gpt2-small": 124.4, "qwen2.5-0.5b": 494.0}, abs=0.1)


class TestScaling:
    def test_an_exponent_is_fitted_over_the_upper_half(self):
        fit = import_module("scaling").fit_exponent
        xs = [1, 2, 4, 8, 16, 32]
        assert fit(xs, [7, 7, 7, *(3 * x**1.5 for x in xs[3:])]) == pytest.approx(1.5)
        assert fit(xs, [5] * 6) == 0
        assert fit([1, 2], [1, 4]) == 2
        assert fit(xs, [1, 1, 1, 1, 1, 0]) is None
        assert fit([1], [1]) is None

    def test_points_figure_and_table(self, main, tmp_path, monkeypatch):
        needs_linux()
        scaling = import_module("scaling")
        small = {**scaling.BASE, "batch": 8, "gen_len": 4, "width": 16, "layers": 1}
        monkeypatch.setattr(scaling, "BASE", small)
        monkeypatch.setattr(scaling, "RANGES", {"gen_len": ([2, 4], {})})
        result, printed = main("scaling", "--variables", "gen_len", "--phases", 1)
        assert [point["gen_len"] for point in result["points"]["gen_len"]] == [2, 4]
        assert result["skipped"] == []
        assert (tmp_path / "result.png").stat().st_size > 1000
        assert "| gen_len" in printed

    def test_no_point_begins_after_the_time_limit(self, main):
        result, printed = main("scaling", "--variables", "group", "--points", 2, "--time-limit", -1)
        assert result["skipped"] == ["group 2", "group 4"]
        assert "skipped: group 2" in printed


def test_memory(main):
    needs_linux()  # the vocabulary is large enough for a peak that what importing left free cannot hold
    result, _ = main("memory", "--vocab", 32_768, "--batch", 8, "--gen-len", 8, "--phases", 1)
    assert result["ratio_memory"] > 0
    assert result["library_s"] > 0
    assert result["library"]["peak_mb"] == max(result["library"]["score_mb"], result["library"]["learn_mb"])


class TestToTarget:
    def test_one_run(self, main, tmp_path):
        words = ("--systems", "ours", "--seeds", 0, "--phases", 2, "--measure-every", 1, "--problems", 8, "--prompts", 2)
        result, _ = main("to_target", *words, "--target", 0)
        assert result["runs"][0]["phases"] == 1
        assert result["ours_samples"] == 16
        assert result["ratio_time"] is None
        assert "yes" in (tmp_path / "result.md").read_text()

    def test_measures_when_due_and_after_the_last_phase(self):
        to_target = import_module("to_target")
        args = dataclasses.replace(to_target.recipe(to_target.GrpoArgs, "grpo-pocket"), total_phases=5)

        class Scripted:
            accuracies = iter([0.1, 0.2, 0.3])

            def ask(self, command):
                return {"accuracy": next(self.accuracies)} if command == "measure" else {"seconds": 1.0}

        found = to_target.run(Scripted(), args, target=0.9, every=2)
        assert [point["phases"] for point in found["curve"]] == [2, 4, 5]
        assert not found["reached"]
        assert found["seconds"] == 5.0
        assert to_target.summarise([{"system": "ours", **found}])["ours_s"] is None

    def test_systems_take_turns_in_going_first(self):
        order = import_module("to_target").order_of
        assert [order(i, ["ours", "trl"])[0] for i in range(3)] == ["ours", "trl", "ours"]


def test_utilisation(main):
    words = ("--model", "pocket", "--batch", 8, "--gen-len", 4, "--phases", 1)
    result, _ = main("utilisation", *words)
    assert 0 < result["utilisation_computed"] <= result["utilisation"]  # sharing prompts counts as use
    assert result["teraflops_needed"] >= result["teraflops_computed"] > 0


class TestSmolLM2:
    """The script on a tiny random model with a chat template, its commands run in this process."""

    @pytest.fixture
    def words(self, model_dirs, tmp_path, monkeypatch):
        """A script whose runs and results are small, and what it is called with."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from rlhf_lib import cli

        model = AutoModelForCausalLM.from_pretrained(model_dirs["llama"])
        model.config.max_position_embeddings = 1024
        model.save_pretrained(tmp_path / "Tiny")
        AutoTokenizer.from_pretrained(model_dirs["llama"]).save_pretrained(tmp_path / "Tiny")
        row = {"Question": "How many?", "Equation": "( 4.0 - 3.0 )", "Answer": 1.0}
        rows = [{**row, "Body": f"Dan had {i}"} for i in range(24)]
        for split in ("train", "test"):
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data" / f"{split}.json").write_text(json.dumps(rows))
        script = import_module("smollm2")
        small = {"dtype": "float32", "gen-len": 4, "batch-size": 4, "group-size": 2, "num-minibatches": 1, "warmup-steps": 0}
        monkeypatch.setattr(script, "TRAINING", {**script.TRAINING, **small, "base-lr": 0.1})
        monkeypatch.setattr(script, "JUDGING", {**script.JUDGING, "dtype": "float32", "gen-len": 4})
        monkeypatch.setattr(script, "RESULTS", tmp_path)
        self.calls = []

        def run(command, options, flags=(), **environment):
            self.calls.append((command, *flags))
            given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
            assert cli.main([*command.split(), *given, *flags, "--device", "cpu"]) == 0

        monkeypatch.setattr(script, "rlhf", run)
        sizes = ("--phases", "2", "--problems", "4", "--threads", "1", "--note", "A trial.")
        return ["--base-model", str(tmp_path / "Tiny"), "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "r"), *sizes]

    def test_the_whole(self, words, tmp_path, capsys):
        pytest.importorskip("peft")
        script = import_module("smollm2")
        script.main(words)
        assert self.calls == [("eval",), ("train grpo",), ("eval",)]
        result = json.loads((tmp_path / "smollm2.json").read_text())
        assert len(result["curves"]) == result["phases"] == 2
        assert result["peft"]["equal"] == result["peft"]["prompts"] == 4
        assert str(tmp_path) not in json.dumps(result)
        assert set(script.MEASURES) < set(result["before"]) == set(result["after"])
        text = (tmp_path / "smollm2.md").read_text()
        assert text.startswith("Tiny, GRPO on SVAMP: 8 completions")
        assert text.endswith("Under peft 4 of 4 greedy completions equal ours, to the letter. A trial.\n")
        assert (tmp_path / "smollm2.png").stat().st_size > 10_000
        before, after = (script.lines(tmp_path / "r" / when / "problems.jsonl") for when in ("before", "after"))
        assert [row["greedy"]["completion"] for row in before] != [row["greedy"]["completion"] for row in after]
        (tmp_path / "r" / "grpo" / "summary.json").unlink()
        script.main(words)  # runs nothing again, and resumes what was not finished
        assert self.calls[3:] == [("train grpo", "--resume")]
