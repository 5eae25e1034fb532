"""The checkers' options and report come from the course."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

try:
    from rlhf_lib.course.pytest_plugin import (  # noqa: F401
        pytest_addoption,
        pytest_collection_modifyitems,
        pytest_configure,
        pytest_report_teststatus,
        pytest_runtest_call,
        pytest_runtest_makereport,
        pytest_terminal_summary,
        student,
    )
except ModuleNotFoundError as error:
    sys.exit(
        f"{sys.executable} does not have {error.name}, which the course needs: run `make shell` for a shell that has it, or "
        "`source .venv/bin/activate`; `make test` or `make demo` make .venv where there is none"
    )
