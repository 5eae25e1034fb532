"""Every tracker is told the same, by its own package's functions; a run needs none of them."""

import json
import sys
import types

import pytest

from rlhf_lib.args import GrpoArgs, InputError
from rlhf_lib.runs.directory import read_json_lines
from rlhf_lib.runs.trackers import TRACKERS, numbers, start_tracker


class StandIn(types.ModuleType):
    """A package that notes its calls."""

    def __init__(self, name, calls):
        super().__init__(name)
        self.__path__, self.calls = [], calls

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*words, **options):
            self.calls.append((name, words, options))
            return self

        return call


@pytest.fixture(params=sorted(TRACKERS))
def tracker(request, monkeypatch):
    """A tracker's name, and the calls of its package."""
    calls = []
    modules = (request.param, "torch.utils.tensorboard") if request.param == "tensorboard" else (request.param,)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, StandIn(module, calls))
    return request.param, calls


LOG = {"wandb": "log", "tensorboard": "add_scalar", "trackio": "log", "mlflow": "log_metrics"}
END = {"wandb": "finish", "tensorboard": "close", "trackio": "finish", "mlflow": "end_run"}


def metrics_told(name, calls):
    """What a tracker was told, as {phase: {metric: value}}."""
    told = {}
    for called, words, options in calls:
        if called == LOG[name]:
            phase = options.get("step", words[-1])
            told.setdefault(phase, {}).update({words[0]: words[1]} if name == "tensorboard" else words[0])
    return told


def test_a_run_tells_its_tracker_what_its_own_file_says(tracker, make, tmp_path):
    name, calls = tracker
    make("grpo", tracker=name, total_phases=3).train()
    told = metrics_told(name, calls)
    records = {record["phase"]: record for record in read_json_lines(tmp_path / "run" / "metrics.jsonl")}
    assert told.keys() == records.keys() == {0, 1, 2}
    for phase, record in records.items():
        assert {key: told[phase][key] for key in numbers(record)} == numbers(record)
    assert calls[-1][0] == END[name]


def test_a_tracker_that_fails_does_not_end_the_run(tracker, make, tmp_path, monkeypatch, capsys):
    name, _ = tracker
    monkeypatch.setattr(TRACKERS[name][0], "log", lambda *words: (_ for _ in ()).throw(OSError("no network")))
    summary = make("grpo", tracker=name, total_phases=3).train()
    assert summary["phases"] == 3
    assert capsys.readouterr().out.count(f"{name} failed (OSError: no network)") == 1


def test_one_that_is_not_installed_is_named_before_any_work(monkeypatch, make):
    monkeypatch.setattr("rlhf_lib.runs.trackers.find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(InputError, match=rf"needs the package {name}; pip install .rlhf_lib\[{name}\]"):
            make("grpo", tracker=name)


def test_one_that_does_not_start_is_an_error(tracker, tmp_path, monkeypatch):
    name, _ = tracker

    def refused(*words):
        raise RuntimeError("not\nsigned in")

    monkeypatch.setitem(TRACKERS, name, (refused, TRACKERS[name][1]))
    with pytest.raises(InputError, match=f"tracker='{name}' does not start .RuntimeError: not signed in.; mend that"):
        start_tracker(GrpoArgs(tracker=name), "run", tmp_path)


def test_the_old_flag_is_a_name_for_wandb():
    assert GrpoArgs(use_wandb=True).chosen_tracker == "wandb"
    assert GrpoArgs().chosen_tracker is None
    with pytest.raises(InputError, match="are two trackers"):
        GrpoArgs(use_wandb=True, tracker="mlflow")


def test_tensorboard_itself(make, tmp_path):
    """Its files, read back by its own reader."""
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make("grpo", tracker="tensorboard", total_phases=3).train()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [round(event.value, 5) for event in events.Scalars("reward")] == [round(r["reward"], 5) for r in records]
    assert json.loads((tmp_path / "run" / "args.json").read_text())["tracker"] == "tensorboard"
