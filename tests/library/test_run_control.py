"""A run is one process's, can be looked at, ended, bounded and extended, and keeps no model that is broken."""

import json
import re
import signal
import subprocess
import sys

import pytest
import torch

from rlhf_lib import cli
from rlhf_lib.args import GrpoArgs, InputError, RewardModelArgs, SftArgs
from rlhf_lib.evaluate import Accuracy
from rlhf_lib.files import CannotWrite
from rlhf_lib.models import TransformerWithLora, load_policy
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.runs import Run, policy_of_run
from rlhf_lib.runs.checkpoints import load_checkpoint
from rlhf_lib.runs.directory import read_json_lines
from rlhf_lib.runs.kept import about_model, read_model_args
from rlhf_lib.trainers import TRAINERS, RewardModelTrainer, SftTrainer, TrainingDiverged

from .conftest import ARGS_OF, ON_A_PREFIX
from .test_training_runs import contains_a, start_training, wait_for_phases


def phases_of(run):
    return [record["phase"] for record in read_json_lines(run / "metrics.jsonl")]


def equal_states(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


def dies_in(trainer, phase):
    """Make a trainer raise KeyError behind the updates of a phase."""
    original = trainer.learning_phase

    def learning_phase(*words):
        original(*words)
        if trainer.phase == phase:
            raise KeyError

    trainer.learning_phase = learning_phase
    return trainer


# One writer


@pytest.mark.slow
def test_a_run_under_way_has_its_directory_alone(tmp_path):
    run = tmp_path / "run"
    process = start_training(run)
    try:
        wait_for_phases(run, 2, process)
        for second in [start_training(run), start_training(run, "--resume")]:
            said, _ = second.communicate(timeout=120)
            assert second.returncode == 2, said
            assert f"is being written by process {process.pid}" in said
            assert "Traceback" not in said
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "--resume" in said
    assert json.loads((run / "summary.json").read_text())["interrupted"]
    assert load_checkpoint(run / "checkpoint.pt")["next_phase"] == len(phases_of(run))
    assert phases_of(run) == list(range(len(phases_of(run))))
    assert not list(run.rglob(".*"))  # no lock, nothing half done


def test_it_is_claimed_before_the_first_evaluation(make, monkeypatch, tmp_path):
    """While the first run measures, a second process is refused; when that ended early, a fresh start is possible."""
    trainer = make("grpo")
    code = "import sys; from rlhf_lib.files import claim; claim(sys.argv[1])"

    def measured():
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
        assert "is being written by process" in second.stderr
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    make("grpo").train()


@pytest.mark.parametrize("ends", ["finished", "failed"])
def test_it_is_free_when_the_run_has_ended(ends, make, tmp_path):
    trainer = make("grpo", total_phases=3)
    if ends == "failed":
        with pytest.raises(KeyError):
            dies_in(trainer, 1).train()
        del trainer
    else:
        trainer.train()
    code = "import sys; from rlhf_lib.files import claim; claim(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)


def test_files_of_a_run_without_its_arguments(make, tmp_path):
    make("grpo").train()
    (tmp_path / "run" / "args.json").unlink()
    with pytest.raises(InputError, match=r"holds metrics\.jsonl of a run whose args\.json is missing"):
        make("grpo")


@pytest.mark.parametrize("command", ["eval", "merge", "compare", "pretrain"])
def test_other_writers_claim_theirs_before_their_work(command, tmp_path, monkeypatch, capsys):
    """Neither a directory in use nor one that cannot be written is found after the work."""
    monkeypatch.setattr("rlhf_lib.models.loading.load_base", lambda *words, **options: pytest.fail("began to work"))
    monkeypatch.setattr("rlhf_lib.trainers.pretrain.build_tokenizer", lambda *words, **options: pytest.fail("began to work"))
    words = [command, *(["--adapter", "x"] if command == "merge" else []), "--output-dir"]
    assert cli.main([*words, "/proc/x"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    code = "import sys, time; from rlhf_lib.files import claim; lock = claim(sys.argv[1]); print(1, flush=True); time.sleep(99)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    try:
        holder.stdout.readline()
        assert cli.main([*words, str(tmp_path / "out")]) == 2
        assert f"is being written by process {holder.pid}" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


# Weights that are no numbers


def poison(trainer, value):
    """Make the last update of the second phase put a value into one weight."""
    original = trainer.learning_phase

    def learning_phase(*words):
        result = original(*words)
        if trainer.phase == 1:
            with torch.no_grad():
                trainer.optimizer.param_groups[0]["params"][-1].view(-1)[0] = value
        return result

    trainer.learning_phase = learning_phase
    return trainer


def small(kind, tmp_path, roberta_dir, **changes):
    """A trainer of every kind with two phases, on the bundled model."""
    given = {"device": "cpu", "eval_problems": 0, "log_samples_every": 0, "output_dir": str(tmp_path / "run"), "save_every": 1}
    if kind == "sft":
        given |= {"problems": 32, "epochs": 2, "batch_size": 16, "lora_rank": 4}
        return SftTrainer(SftArgs(**{**given, **changes}))
    if kind == "reward-model":
        file = tmp_path / "pairs.jsonl"
        rows = [{"prompt": f"{i}?", "chosen": "good " * (i % 3 + 1), "rejected": "bad"} for i in range(20)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given |= {"comparisons": str(file), "reward_base": str(roberta_dir), "batch_size": 4, "epochs": 2}
        return RewardModelTrainer(RewardModelArgs(**{**given, **changes}))
    given |= {"gen_len": 6, "batch_size": 8, "num_minibatches": 2, "task": "pocket", "total_phases": 2, "warmup_steps": 0}
    own = {"grpo": {"group_size": 4}, "reft": {"warmup_problems": 16}, "latro": {"gen_len": 12}}
    own["dapo"] = {"ent_coef": 0.01, "mask_truncated": False}  # or nothing is learned from answers cut at gen_len
    given |= own.get(kind, {})
    return TRAINERS[kind](ARGS_OF[kind](**{**given, **changes}))


QUICK, LONG = ("grpo", "sft", "reward-model"), ("ppo", "ppo-lora", "reft", "dapo", "latro", "self-training")
KINDS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in LONG)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_update_is_looked_at_before_it_is_saved(kind, value, tmp_path, roberta_dir):
    trainer = poison(small(kind, tmp_path, roberta_dir), value)
    with pytest.raises(
        TrainingDiverged, match=r"1 of \d+ trained tensors hold NaN or infinity .*phase 2.*nothing of that phase"
    ):
        trainer.train()
    run = tmp_path / "run"
    assert load_checkpoint(run / "checkpoint.pt")["next_phase"] == 1
    assert phases_of(run) == [0]
    assert not (run / "model").exists()
    assert not (run / "summary.json").exists()


@pytest.mark.parametrize("rate", [1e12, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_rate_ends_in_one_update(kind, rate, tmp_path, roberta_dir):
    """One update, the run's last: weights too large to compute with are no result, finite or not."""
    one = {"epochs": 1, "problems": 16} if kind == "sft" else {"epochs": 1, "batch_size": 64} if kind == "reward-model" else {}
    one = one or {"total_phases": 1, "num_minibatches": 1, "batches_per_learning_phase": 1}
    trainer = small(kind, tmp_path, roberta_dir, **one)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    with pytest.raises(TrainingDiverged, match=r"NaN or infinity.* after the updates of phase 1"):
        trainer.train()
    assert not (tmp_path / "run" / "model").exists()
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["next_phase"] == 0


def test_a_warm_up_that_breaks_the_model_is_noticed(tmp_path, roberta_dir, monkeypatch):
    from rlhf_lib.trainers import reft

    def step(model, *words):
        model.get_base_model_trainable_params()[0].data.fill_(float("nan"))

    monkeypatch.setattr(reft, "supervised_step", step)
    with pytest.raises(InputError, match=r"the model after the warm-up holds NaN or infinity in 1 of"):
        small("reft", tmp_path, roberta_dir)


def test_broken_weights_are_refused_wherever_they_come_from(make, tmp_path, model_dirs, roberta_dir):
    from safetensors.torch import load_file, save_file

    make("grpo").train()
    make("ppo", output_dir=str(tmp_path / "ppo")).train()
    adapter, whole = tmp_path / "run" / "model", tmp_path / "ppo" / "model"
    loads = [
        (adapter / "adapter_model.safetensors", lambda: load_policy(adapter, "cpu")),
        (whole / "model.safetensors", lambda: load_policy(whole, "cpu")),
        (whole / "value_head.safetensors", lambda: make("ppo", output_dir=None).model.load_value_head(whole)),
        (roberta_dir / "model.safetensors", lambda: RewardModel(roberta_dir, device="cpu")),
    ]
    for file, load in loads:
        content = file.read_bytes()
        tensors = load_file(file)
        name = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point())[0]
        tensors[name].view(-1)[-1] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"holds NaN or infinity in 1 of \d+ tensors"):
            load()
        file.write_bytes(content)
        load()


def test_an_adapter_is_not_merged_into_its_own_directory(make, tmp_path):
    """Both configurations would lie there, and what is loaded would depend on who loads."""
    make("ppo-lora").train()
    model = str(tmp_path / "run" / "model")
    assert cli.main(["merge", "--adapter", model, "--output-dir", model]) == 2
    assert not (tmp_path / "run" / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"phase": "x"}, "phase='x'"),
        ({"phase": None}, "phase=None"),
        ({"phase": 1, "of": "x"}, "of='x'"),
        ({"phase": 1, "held_out_accuracy": "x"}, "held_out_accuracy='x'"),
    ],
    ids=str,
)
def test_what_is_told_of_a_model_is_numbers(about, told, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "phase.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=f"phase.json has {told}, which must be a number"):
        about_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("lora_alpha", None), ("lora_rank", "x"), ("lora_maps", 3), ("base_model", 5), ("adapter", [])], ids=str
)
def test_what_args_json_says_of_a_model_fits(name, value, make, tmp_path):
    file = tmp_path / "args.json"
    file.write_text(json.dumps({"algorithm": "grpo", "base_model": "pocket", "lora_rank": 4, name: value}))
    with pytest.raises(InputError, match=f"args.json: {name}="):
        read_model_args(file)


def test_a_merge_that_overflows_is_refused(make, tmp_path):
    make("grpo").train()
    model = load_policy(tmp_path / "run" / "model", "cpu")
    assert isinstance(model, TransformerWithLora)
    with torch.no_grad():
        for parameter in model.lora_params():
            parameter.fill_(1e30)
    with pytest.raises(InputError, match="the model to save holds NaN or infinity"):
        model.save_merged(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# The budget


class Clock:
    """Seconds that pass only when something is sampled or learned."""

    def __init__(self, monkeypatch, *names):
        self.now, self.counts = 0.0, dict.fromkeys(names, 0)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        for name in names:
            module, _, attribute = name.rpartition(".")
            original = getattr(sys.modules[module], attribute)

            def counted(*words, name=name, original=original, **options):
                self.now += 1.0
                self.counts[name] += 1
                return original(*words, **options)

            monkeypatch.setattr(name, counted)


def test_critic_phases_end_with_the_budget(make, monkeypatch):
    trainer = make("ppo", critic_phases=30, budget=3.5, total_phases=50)
    clock = Clock(monkeypatch, "rlhf_lib.samplers.own.rollout")
    summary = trainer.train()
    assert clock.counts["rlhf_lib.samplers.own.rollout"] == 5  # four of the critic, and the one phase that every run has
    assert summary["phases"] == 1


def test_a_warm_up_ends_with_the_budget_and_is_the_same_on_resume(tmp_path, roberta_dir, monkeypatch):
    given = {"warmup_epochs": 100, "warmup_batch_size": 4, "total_phases": 2}
    clock = Clock(monkeypatch, "rlhf_lib.trainers.reft.supervised_step")
    first = small("reft", tmp_path, roberta_dir, budget=3.0, **given)
    assert clock.counts["rlhf_lib.trainers.reft.supervised_step"] == 3
    first.train()
    resumed = small("reft", tmp_path, roberta_dir, budget=500.0, resume=True, **given)
    assert clock.counts["rlhf_lib.trainers.reft.supervised_step"] == 6
    assert equal_states(first.ref_model.trainable_state(), resumed.ref_model.trainable_state())
    assert resumed.train()["phases"] == 2


def test_sampling_for_a_reward_model_ends_with_the_budget(tmp_path, monkeypatch):
    given = {"device": "cpu", "eval_problems": 0, "gen_len": 40, "problems": 200, "samples": 8, "reward_base": "pocket"}
    clock = Clock(monkeypatch, "rlhf_lib.trainers.reward_model.rollout")
    trainer = RewardModelTrainer(RewardModelArgs(kind="verifier", budget=2.0, output_dir=str(tmp_path / "run"), **given))
    assert clock.counts["rlhf_lib.trainers.reward_model.rollout"] == 2
    assert len(trainer.train_rows) + len(trainer.test_rows) == 256


@pytest.mark.parametrize("kind", ["sft", "reward-model"])
def test_an_epoch_that_was_cut_is_gone_on_with(kind, tmp_path, roberta_dir, monkeypatch):
    """Cut by the budget in the middle of an epoch and resumed with more, the weights are those of a run in one piece."""
    sizes = {"batch_size": 4}
    whole = small(kind, tmp_path, roberta_dir, output_dir=str(tmp_path / "whole"), **sizes)
    whole.train()
    cut = small(kind, tmp_path, roberta_dir, budget=1000.0, **sizes)
    monkeypatch.setattr(Run, "budget_is_spent", property(lambda run: run.trainer.step >= 6))
    cut.train()
    assert cut.step == 6
    per_epoch = whole.step // 2
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert (state["next_phase"], state["updates_of_cut_phase"]) == (6 // per_epoch, 6 % per_epoch)
    monkeypatch.undo()
    resumed = small(kind, tmp_path, roberta_dir, budget=2000.0, resume=True, **sizes)
    resumed.train()
    assert resumed.step == whole.step
    assert equal_states(whole.model.trainable_state(), resumed.model.trainable_state())
    assert phases_of(tmp_path / "run") == [0, 1]
    assert [r["samples"] for r in read_json_lines(tmp_path / "run" / "metrics.jsonl")] == [
        r["samples"] for r in read_json_lines(tmp_path / "whole" / "metrics.jsonl")
    ]


# Mid-run


@pytest.mark.parametrize("name", ON_A_PREFIX)
def test_a_run_that_was_killed_can_be_used(name, make, tmp_path):
    trainer = make(name, reward_fn=contains_a, save_every=2, total_phases=5)
    with pytest.raises(KeyError):
        dies_in(trainer, 3).train()
    model, told = policy_of_run(str(tmp_path / "run"), device="cpu")
    assert "after phase 2 of 5 (checkpoint.pt)" in told
    ids = torch.tensor([[1, 5, 9, 12]])
    trainer.model.load_trainable_state(load_checkpoint(tmp_path / "run" / "checkpoint.pt")["model"])
    expected, _ = trainer.model.forward_with_value_head(ids)
    assert torch.equal(model.forward_with_value_head(ids)[0] * 1, expected * 1)


def test_the_newer_of_model_and_checkpoint_counts(make, tmp_path):
    make("grpo", total_phases=3).train()
    assert policy_of_run(str(tmp_path / "run"), device="cpu")[1].endswith("after phase 3 of 3 (model/)")
    with pytest.raises(KeyError):
        dies_in(make("grpo", total_phases=8, resume=True, save_every=1), 5).train()
    assert policy_of_run(str(tmp_path / "run"), device="cpu")[1].endswith("after phase 5 of 8 (checkpoint.pt)")


def test_eval_and_sample_of_a_run_under_way(tmp_path, capsys):
    run = tmp_path / "run"
    process = start_training(run, "--task", "pocket", "--eval-problems", "4")
    try:
        wait_for_phases(run, 2, process)
        for words in (["eval", "--problems", "4"], ["sample", "--count", "1"]):
            assert cli.main([*words, "--run", str(run), "--gen-len", "8", "--device", "cpu"]) == 0
            assert re.search(r"after phase \d+ of 400 \(checkpoint.pt\)", capsys.readouterr().out)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_models_of_phases_and_the_best_are_kept(make, tmp_path, monkeypatch, capsys):
    trainer = make("grpo", task="pocket", base_model="pocket", total_phases=5, save_model_every=2, keep_best=True, eval_every=1)
    accuracies = iter([0.0, 0.1, 0.3, 0.2, 0.3, 0.1])  # of one problem at the start, then of each phase
    monkeypatch.setattr(
        trainer, "accuracy", lambda *words, **options: Accuracy(next(accuracies), 0.0, 1.0) if "split" in options else None
    )
    states, original = [], trainer.learning_phase

    def learning_phase(memory):
        result = original(memory)
        states.append({name: tensor.clone() for name, tensor in trainer.model.trainable_state().items()})
        return result

    trainer.learning_phase = learning_phase
    trainer.train()
    run = str(tmp_path / "run")
    for which, phase in (("phase-2", 2), ("best", 2), ("phase-4", 4), ("last", 5)):
        model, told = policy_of_run(run, which, device="cpu")
        assert f"after phase {phase} of 5" in told
        assert equal_states(model.trainable_state(), states[phase - 1])
    with pytest.raises(InputError, match=r"keeps no model 'phase-3' .*it has last, best, phase-2, phase-4"):
        policy_of_run(run, "phase-3")
    assert cli.main(["sample", "--run", run, "--which", "best", "--count", "1", "--device", "cpu"]) == 0
    assert "after phase 2 of 5, with 30.0% of the validation problems right" in capsys.readouterr().out


def test_what_keeping_the_best_needs(make):
    with pytest.raises(InputError, match="add eval_every"):
        GrpoArgs(keep_best=True)
    with pytest.raises(InputError, match="keep_best needs a task with right answers"):
        make("grpo", keep_best=True, eval_every=1).train()


def test_a_run_without_anything_yet(tmp_path, capsys):
    (tmp_path / "args.json").write_text("{}")
    assert cli.main(["eval", "--run", str(tmp_path)]) == 2
    assert "holds no trained model and no checkpoint; it keeps none yet" in capsys.readouterr().err
    for which in ("first", "phase-", "best"):
        assert code_of(["eval", "--which", which]) == 2


def code_of(words):
    """A command's exit code."""
    try:
        return cli.main(words)
    except SystemExit as stop:
        return stop.code


# Going on differently


def test_more_phases_another_rate_and_the_change_is_kept(make, tmp_path):
    make("grpo", reward_fn=contains_a, total_phases=3).train()
    resumed = make("grpo", reward_fn=contains_a, total_phases=6, base_lr=1e-3, budget=500.0, resume=True)
    summary = resumed.train()
    assert phases_of(tmp_path / "run") == list(range(6))
    changes = [{"phase": 3, "total_phases": [3, 6], "budget": [None, 500.0], "base_lr": [3e-4, 1e-3]}]
    assert summary["changes"] == read_json_lines(tmp_path / "run" / "changes.jsonl") == changes
    assert json.loads((tmp_path / "run" / "args.json").read_text())["total_phases"] == 6
    planned = make("grpo", output_dir=str(tmp_path / "other"), total_phases=6, base_lr=1e-3)
    rates = []
    for _ in range(6):
        planned.scheduler.step()
        rates.append(planned.scheduler.get_last_lr()[0])
    told = [record["learning_rate"] for record in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert told[3:] == rates[3:]


def test_what_cannot_change_is_refused_by_name(make, tmp_path):
    make("grpo").train()
    with pytest.raises(
        InputError, match=r"lora_rank=2 \(was 4\), kl_coef=0\.5 \(was 0\.1\); .*total_phases.*base_lr.* may change"
    ):
        make("grpo", total_phases=9, kl_coef=0.5, lora_rank=2, resume=True)
    with pytest.raises(InputError, match="total_phases=3 is below the 4 phases that the run has had"):
        make("grpo", total_phases=3, resume=True).train()


def test_a_run_of_another_algorithm_is_named_first(make, tmp_path, capsys):
    make("grpo").train()
    with pytest.raises(InputError, match="is of 'grpo', not of 'ppo-lora'; use `rlhf train grpo`"):
        make("ppo-lora", resume=True)
    assert cli.main(["train", "sft", "--task", "pocket", "--resume", "--output-dir", str(tmp_path / "run")]) == 2
    assert "is of 'grpo', not of 'sft'" in capsys.readouterr().err


# A full disk, and how runs end


FULL = """
import resource, sys
import torch.distributed.nn  # which writes files when it is imported
from rlhf_lib import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
@pytest.mark.parametrize("room", [0.9, 0.1], ids=["for the logs", "for nothing"])
def test_a_disk_that_is_full(room, make, tmp_path):
    """The system refuses files beyond a size: one sentence, exit code 1, and the run's earlier checkpoint stays."""
    make("grpo", total_phases=3, save_every=1).train()
    run = tmp_path / "run"
    before = (run / "checkpoint.pt").read_bytes()
    limit = int(room * len(before)) if room > 0.5 else int(room * (run / "samples.jsonl").stat().st_size)
    words = ["train", "grpo", "--resume", "--output-dir", str(run), "--total-phases", "6"]
    done = subprocess.run([sys.executable, "-c", FULL, str(limit), *words], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    file = "checkpoint.pt" if room > 0.5 else r"\w+.jsonl"
    assert re.search(rf"rlhf: \S*/{file} could not be written \(File too large\); make room there", done.stderr), done.stderr
    assert (run / "checkpoint.pt").read_bytes() == before
    assert not list(run.rglob(".*.tmp"))
    assert cli.main(words) == 0
    assert phases_of(run) == list(range(6))


def test_a_report_on_a_full_disk_has_told_its_figures(tmp_path, monkeypatch, capsys):
    def full(*words):
        raise CannotWrite("results.json could not be written (No space left on device); make room there")

    monkeypatch.setattr("rlhf_lib.evaluate.report.write_atomically", full)
    words = ["eval", "--problems", "4", "--gen-len", "8", "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    assert cli.main(words) == 1
    captured = capsys.readouterr()
    assert "greedy" in captured.out
    assert captured.err == "rlhf: results.json could not be written (No space left on device); make room there\n"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_outside_the_phases_ends_with_130(sent, tmp_path):
    """While there is nothing to finish: during the evaluation before training, which leaves no run behind."""
    code = """
import os, signal, sys
from rlhf_lib import cli
from rlhf_lib.trainers import TRAINERS
TRAINERS["grpo"].measure = lambda self: os.kill(os.getpid(), int(sys.argv[1]))
sys.exit(cli.main(sys.argv[2:]))
"""
    words = ["train", "grpo", "--output-dir", str(tmp_path / "run"), "--gen-len", "6", "--batch-size", "8", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, str(int(sent)), *words], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "args.json").exists()
    assert cli.main([*words, "--total-phases", "3"]) == 0
