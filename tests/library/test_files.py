"""Whole files or none, one writer a directory, and one sentence where the disk refuses."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlhf_lib.args import InputError
from rlhf_lib.files import CannotWrite, append_whole, claim, whole_file, whole_files, write_atomically, writing, writing_in
from rlhf_lib.files.lock import NAME

HOLD = """
import sys, time
from rlhf_lib.files import claim
lock = claim(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""
LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # no file may grow beyond: real refusals of the system
from rlhf_lib.files import CannotWrite, append_whole, whole_files, write_atomically
root = Path(sys.argv[1])
def write_many():
    with whole_files(root / "model") as new:
        (new / "a").write_text("new")
        (new / "b").write_bytes(bytes(60_000))
for write in (
    lambda: write_atomically(root / "whole", "x" * 60_000),
    lambda: append_whole(root / "grown", "x" * 60_000),
    write_many,
):
    try:
        write()
    except CannotWrite as error:
        print(error)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path / "run"."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestLocks:
    def test_a_second_process_is_told_who_writes(self, holder, tmp_path):
        with pytest.raises(InputError, match=rf"output_dir='.*run' is being written by process {holder.pid} on .* wait until"):
            claim(tmp_path / "run")

    def test_it_dies_with_its_process(self, holder, tmp_path):
        holder.kill()
        holder.wait()
        assert (tmp_path / "run" / NAME).exists()
        lock = claim(tmp_path / "run")
        assert lock.is_held
        lock.release()
        assert list((tmp_path / "run").iterdir()) == []

    def test_of_many_at_once_one_wins(self, tmp_path):
        """Eight processes, again and again: at every moment at most one is inside."""
        code = """
import os, sys, time
from rlhf_lib.args import InputError
from rlhf_lib.files import writing_in
won = 0
while time.time() < float(sys.argv[2]):
    try:
        with writing_in(sys.argv[1]) as path:
            os.close(os.open(path / "inside", os.O_CREAT | os.O_EXCL))  # fails if another is here too
            won += 1
            os.unlink(path / "inside")
    except InputError:
        pass
print(won)
"""
        words = [sys.executable, "-c", code, str(tmp_path / "run"), str(time.time() + 4)]
        processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(8)]
        said = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 8
        assert sum(map(int, said)) > 8

    def test_the_same_thread_may_claim_again_and_another_may_not(self, tmp_path):
        lock, refused = claim(tmp_path), []
        assert claim(tmp_path) is lock

        def other():
            with pytest.raises(InputError, match="another thread of this process"):
                claim(tmp_path)
            refused.append(True)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert refused
        lock.release()
        assert not lock.is_held

    def test_nothing_refers_to_it_any_more(self, tmp_path):
        lock = claim(tmp_path)
        del lock
        assert not (tmp_path / NAME).exists()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_child_does_not_keep_it(self, tmp_path):
        """A forked worker that outlives its parent."""
        code = """
import os, sys, time
from rlhf_lib.files import claim
lock = claim(sys.argv[1])
if os.fork() == 0:
    print("held", flush=True)
time.sleep(600)
"""
        words = [sys.executable, "-c", code, str(tmp_path)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        try:
            claim(tmp_path).release()
        finally:
            os.killpg(process.pid, 9)
            process.stdout.close()

    def test_where_the_file_system_has_none_it_is_said(self, tmp_path, monkeypatch, capsys):
        fcntl = pytest.importorskip("fcntl", reason="needs fcntl")
        refused = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        monkeypatch.setattr(fcntl, "flock", lambda *words: (_ for _ in ()).throw(refused))
        claim(tmp_path).release()
        assert "has no locks" in capsys.readouterr().err

    def test_left_overs_are_removed(self, tmp_path):
        (tmp_path / ".checkpoint.pt.tmp").write_text("half")
        (tmp_path / "model" / ".new.tmp").mkdir(parents=True)
        (tmp_path / "model" / ".new.tmp" / "weights").write_text("half")
        (tmp_path / "mine.tmp").write_text("mine")
        with writing_in(tmp_path):
            assert sorted(path.name for path in tmp_path.rglob("*")) == [NAME, "mine.tmp", "model"]

    @pytest.mark.parametrize("path", ["/dev/null/x", "/proc/x"])
    def test_what_cannot_be_written(self, path):
        with pytest.raises(InputError, match=f"output_dir='{path}' cannot be written .*choose another --output-dir"):
            claim(path)

    def test_a_name_with_braces(self, tmp_path):
        with writing_in(tmp_path / "{who}{0}") as path:
            assert path.is_dir()


class TestTheDiskRefuses:
    @pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
    def test_one_sentence_and_what_was_there_stays(self, tmp_path):
        for name in ("whole", "grown"):
            (tmp_path / name).write_text("old\n")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "a").write_text("old")
        done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        assert len(said) == 3
        assert all("could not be written (File too large); make room there" in line for line in said)
        assert (tmp_path / "whole").read_text() == (tmp_path / "grown").read_text() == "old\n"
        assert (tmp_path / "model" / "a").read_text() == "old"
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "grown", "model", "whole"]

    def test_a_refusal_in_another_library_is_found(self, tmp_path):
        """Rust's libraries tell the system's number in their text, torch's raises something else on top."""
        with pytest.raises(CannotWrite, match=r"x could not be written \(No space left on device\)"), writing("x"):
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        with pytest.raises(CannotWrite, match="No space left"), writing("x"):
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                raise RuntimeError("enforce fail")

    def test_other_errors_pass(self):
        with pytest.raises(RuntimeError, match="mine"), writing("x"):
            raise RuntimeError("mine")


class TestWholeFiles:
    def test_an_error_leaves_what_was_there(self, tmp_path):
        write_atomically(tmp_path / "a", "old")
        with pytest.raises(KeyError), whole_file(tmp_path / "a") as handle:
            handle.write(b"new")
            raise KeyError
        with pytest.raises(KeyError), whole_files(tmp_path) as new:
            (new / "a").write_text("new")
            raise KeyError
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_text() == "old"

    def test_several_come_together(self, tmp_path):
        (tmp_path / "kept").write_text("mine")
        with whole_files(tmp_path) as new:
            (new / "weights").write_text("new")
            (new / "config.json").write_text("new")
            assert not (tmp_path / "weights").exists()
        assert (tmp_path / "kept").read_text() == "mine"
        assert (tmp_path / "config.json").read_text() == "new"

    def test_what_names_a_model_comes_last(self, tmp_path, monkeypatch):
        moved, replace = [], os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
        with whole_files(tmp_path / "model") as new:
            for name in ("config.json", "weights", "added_tokens.json"):
                (new / name).write_text("new")
        assert moved == ["added_tokens.json", "weights", "config.json"]

    def test_appending(self, tmp_path):
        append_whole(tmp_path / "a", "one\n")
        append_whole(tmp_path / "a", "zwölf\n")
        assert (tmp_path / "a").read_text() == "one\nzwölf\n"
