"""Metrics, warnings, figures and files of a run."""

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.files import write_atomically
from rlhf_lib.runs.directory import append_json_lines, keep_phases_below, new_run_path, read_json_lines, read_metrics
from rlhf_lib.runs.metrics import PhaseMetrics, explained_variance, group_metrics, ratio_metrics, rollout_metrics
from rlhf_lib.runs.plots import plot_curves
from rlhf_lib.runs.summary import one_line, sample_table
from rlhf_lib.runs.warnings import SIGNATURES, failure_signatures


def test_phase_metrics_average_and_add_up():
    metrics = PhaseMetrics()
    metrics.log(kl=1.0, seconds_train=1.0)
    metrics.log(kl=torch.tensor(3.0, requires_grad=True), seconds_train=2.0, nothing=None)
    assert metrics.take() == {"kl": 2.0, "seconds_train": 3.0}
    assert metrics.take() == {}


def test_clip_fractions_count_lost_gradients_only():
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    got = ratio_metrics(ratio.log(), torch.zeros(1, 4), advantages, (0.8, 1.2), None)
    assert got["clip_high"] == got["clip_low"] == 0.25
    assert got["ratio"] == 1.0


def test_explained_variance():
    returns = torch.randn(4, 5)
    assert explained_variance(returns, returns, None) == pytest.approx(1)
    assert explained_variance(torch.zeros(4, 5), returns, None) == pytest.approx(0, abs=1e-6)
    assert explained_variance(-returns, returns, None) == pytest.approx(-3, abs=1e-4)
    assert explained_variance(returns, torch.ones(4, 5), None) is None


def test_groups_are_counted():
    rewards = torch.tensor([1.0, 1, 0, 0, 1, 0, 0, 0])
    got = group_metrics(rewards, 2)
    assert got == {"groups_without_spread": 0.75, "groups_all_right": 0.25, "groups_all_wrong": 0.5}


def test_lengths_by_reward():
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    got = rollout_metrics(torch.tensor([1.0, 0.0, 0.0]), mask, stops=True)
    assert got["length_above_mean_reward"] == 4
    assert got["length_below_mean_reward"] == 1.5
    assert got["full_length_share"] == pytest.approx(1 / 3)


HEALTHY = {
    "reward": 0.5,
    "reward_std": 0.5,
    "kl": 0.1,
    "entropy": 0.5,
    "grad_norm": 0.3,
    "sampler_gap": 0.0,
    "explained_variance": 0.5,
    "groups_without_spread": 0.5,
    "groups_all_wrong": 0.2,
    "full_length_share": 0.0,
}


@pytest.mark.parametrize(
    ("history", "word"),
    [
        ([{**HEALTHY, "kl": 0.1}], "reference"),
        ([{**HEALTHY, "kl": 0.0, "grad_norm": 0.0}], "gradient is zero"),
        ([{**HEALTHY, "groups_without_spread": 1.0, "groups_all_wrong": 0.9}] * 3, "groups"),
        ([HEALTHY, {**HEALTHY, "kl": 9.0}], "collapsing"),
        (
            [{**HEALTHY, "entropy": 0.5, "reward": 0.6}] * 4 + [{**HEALTHY, "entropy": 0.01, "reward": 0.1}],
            "Entropy has collapsed",
        ),
        ([{**HEALTHY, "full_length_share": 0.8}] * 3, "gen_len"),
        ([HEALTHY, {**HEALTHY, "sampler_gap": 0.2}], "disagree"),
        ([{**HEALTHY, "explained_variance": -0.1, "reward": 0.5 + 0.04 * i} for i in range(10)], "critic"),
        ([HEALTHY] * 10, "not risen"),
    ],
)
def test_each_signature_is_recognised_alone(history, word):
    found = failure_signatures(history)
    assert len(found) == 1
    assert word in found[0]


def test_a_healthy_run_gets_no_warning():
    history = [{**HEALTHY, "reward": 0.1 * i, "kl": 0.05 * i} for i in range(10)]
    assert not any(failure_signatures(history[:n]) for n in range(1, 11))
    assert len(SIGNATURES) == 9


def test_json_lines_survive_a_cut(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append_json_lines(file, [{"phase": 0}, {"phase": 1}])
    with open(file, "a") as handle:
        handle.write('{"phase": 2, "kl"')
    assert read_json_lines(file) == [{"phase": 0}, {"phase": 1}]
    assert keep_phases_below(file, 1) == [{"phase": 0}]
    assert file.read_text() == '{"phase": 0}\n'
    assert read_json_lines(tmp_path / "none") == []


PHASE = b'{"phase": 0, "step": 1, "samples": 8, "seconds": 0.5, "kl": null}\n'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"phase": 1, "kl"\n', "is no JSON;"),
        (b'{"phase": 1\xff}\n', "is no JSON;"),
        (b"\n", "is no JSON;"),
        (b"[" * 100_000 + b"\n", "is no JSON;"),
        (b"[1]\n", "is no JSON object;"),
        (b"null\n", "is no JSON object;"),
        (b'{"a": 1}\n', "has phase=None, which must be a whole number"),
        (b'{"phase": "a"}\n', "has phase='a'"),
        (b'{"phase": 1.0}\n', "has phase=1.0"),
        (b'{"phase": -1}\n', "has phase=-1"),
        (b'{"phase": 1}\n', "has no number for step, samples, seconds;"),
        (PHASE.replace(b"0.5", b'"x"'), "has no number for seconds"),
        (PHASE.replace(b"null", b'["x"]'), "has no number for kl;"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(line, told, tmp_path):
    """Only the last line can have been cut by a kill; any other is for a person to look at."""
    file = tmp_path / "metrics.jsonl"
    content = PHASE + line + PHASE.replace(b"0,", b"2,", 1)
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_metrics(file, 3)
    assert f"{file}, line 2 {told}" in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == content


@pytest.mark.parametrize("left", [b'{"phase": 1, "st', b"\xff\xfe", b"[1]", b""], ids=str)
def test_a_last_line_without_an_end_is_left_out(left, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(PHASE + left)
    assert [record["phase"] for record in read_metrics(tmp_path / "metrics.jsonl", 3)] == [0]


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    write_atomically(file, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, "new")
    assert file.read_text() == "old"


def test_new_run_paths_never_collide(tmp_path):
    paths = {new_run_path("x", str(tmp_path)) for _ in range(3)}
    assert len(paths) == 3
    assert all(path.is_dir() for path in paths)


def test_curves_are_drawn_from_whatever_there_is(tmp_path):
    for keys in (["reward"], ["reward", "kl", "entropy", "length", "share_reasoning", "explained_variance"]):
        history = [{"phase": i, **{key: 0.1 * i for key in keys}} for i in range(5)]
        plot_curves(history, tmp_path / "c.png", "title")
        assert (tmp_path / "c.png").stat().st_size > 5000


def test_sample_table_shows_best_and_worst():
    samples = [{"prompt": f"p{i}", "completion": f"line\n{i}", "reward": float(i)} for i in range(9)]
    table = sample_table(samples, 0)
    assert "8.00" in table
    assert "0.00" in table
    assert "line⏎8" in table
    assert one_line("x" * 100, 10) == "x" * 9 + "…"
