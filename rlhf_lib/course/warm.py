"""A process that has imported everything and is forked for each check, so that `rlhf course check` answers at once.

It starts with the first check, listens on a socket that only its user can reach, and ends by itself when nobody asks for a
while, or when a file of the library, the checkers or the chapters has changed.
"""

import fcntl
import hashlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

IDLE = 1800.0  # seconds without a check after which the process ends
START = 120.0  # seconds that it may take to begin
SWITCH = "RLHF_COURSE_WARM"  # an environment variable: 0 runs every check in the process that was asked
IS_POSSIBLE = sys.platform == "linux"  # elsewhere a fork after the imports is not safe


def run(root: Path, words: list[str]) -> int | None:
    """Run `rlhf WORDS` in a fork of the warm process, on this terminal; None where that is not possible."""
    if not IS_POSSIBLE or os.environ.get(SWITCH) == "0":
        return None
    try:
        connection = connect(root)
    except OSError:
        return None
    with connection:
        job = {"words": words, "folder": os.getcwd(), "environment": {**os.environ, SWITCH: "0"}}
        socket.send_fds(connection, [b"job\n"], [0, 1, 2])
        lines = connection.makefile("rw")
        lines.write(json.dumps(job) + "\n")
        lines.flush()
        return follow(lines)


def follow(lines: Any) -> int:
    """Wait for a job's end, and hand on Ctrl-C; returns its exit code."""
    process = int(lines.readline())
    while True:
        try:
            ended = lines.readline()
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGINT)
            continue
        if not ended:
            print("The code under check ended the checker's process.", file=sys.stderr)
            return 1
        return int(ended)


def connect(root: Path) -> socket.socket:
    """A connection to the warm process of a checkout, started if there is none that is up to date; OSError without one."""
    folder = private_folder(root)
    found = greeted(folder, stamp(root))
    if found is not None:
        return found
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = greeted(folder, stamp(root)) or started(root, folder)
    return found


def started(root: Path, folder: Path) -> socket.socket:
    """Start a warm process and connect to it."""
    command = [sys.executable, "-m", "rlhf_lib.course.warm", str(root)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        found = greeted(folder, stamp(root))
        if found is not None:
            return found
        time.sleep(0.05)
    process.kill()
    raise TimeoutError("the warm process did not begin")


def greeted(folder: Path, expected: str) -> socket.socket | None:
    """A connection to a warm process with that stamp; another one is told to end."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(5.0)
        connection.connect(str(folder / "socket"))
        connection.sendall(f"{expected}\n".encode())
        if connection.recv(3) == b"yes":
            connection.settimeout(None)
            return connection
    except OSError:
        pass
    connection.close()
    return None


def private_folder(root: Path) -> Path:
    """The folder of a checkout's socket, which belongs to the user alone; OSError if somebody else has it."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = hashlib.sha256(f"{root}\n{sys.executable}".encode()).hexdigest()[:12]
    folder = base / f"rlhf-course-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o777 != 0o700:
        raise PermissionError(f"{folder} is not private")
    return folder


def stamp(root: Path) -> str:
    """A hash of all files that the process has read, by time and size."""
    files = [*(root / "rlhf_lib").rglob("*.py"), *(root / "tests").glob("*.py"), *(root / "chapters").glob("*.md")]
    seen = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(files)]
    return hashlib.sha256(repr((sys.version, seen)).encode()).hexdigest()


def serve(root: Path) -> None:
    """Import everything, then fork for every job until nobody asks any more."""
    before = stamp(root)
    prepare(root)
    folder = private_folder(root)
    with listening(folder) as listener:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended children leave nothing behind
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5.0)
                if connection.recv(128).decode().strip() != before:
                    return
                connection.sendall(b"yes")
                if os.fork() == 0:
                    listener.close()
                    work(connection)


def prepare(root: Path) -> None:
    """Load what every check needs: checkers, solutions, and what exercises import."""
    from rlhf_lib.course.assemble import Implementation, assemble
    from rlhf_lib.course.checks import load_checks
    from rlhf_lib.course.manifest import load_course
    from rlhf_lib.course.render import render_stubs

    for topic, exercises in load_course(root).items():
        load_checks(root, topic)
        assemble(root, exercises[0], Implementation(render_stubs(topic, exercises), topic))


@contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """A socket at its place in the folder, removed at the end."""
    place = folder / "socket"
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        listener.settimeout(IDLE)
        try:
            yield listener
        finally:
            place.unlink(missing_ok=True)


def work(connection: socket.socket) -> NoReturn:
    """Do one job in a fork, on the terminal of who asked, and report its exit code."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(None)
        _, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        lines = connection.makefile("rw")
        job = json.loads(lines.readline())
        lines.write(f"{os.getpid()}\n")
        lines.flush()
        code = run_here(job)
        lines.write(f"{code}\n")
        lines.flush()
    finally:
        os._exit(code)


def run_here(job: dict[str, Any]) -> int:
    """Run a job's command as `python -m rlhf_lib` would."""
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (as Python opens them when it starts)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["rlhf", *job["words"]]
    try:
        runpy.run_module("rlhf_lib", run_name="__main__")
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
