#!/usr/bin/env bash
# Installs the locked packages into the virtual environment $1: `install.sh VENV first` what a first
# `make serve` needs, `install.sh VENV all` everything. A line a step, with its seconds.
#
# The hashes name every package, so pip resolves nothing, and parts that share no package can be
# installed side by side. torch's CPU build for Linux comes from where pip is told to look
# (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); without it PyPI's build is taken, with the CUDA libraries
# that it asks for, which are not locked.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 what=$2
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

locked() {
  # Modules are compiled when they are first imported: most of torch's never are.
  "$venv/bin/pip" install --quiet --no-compile --no-deps --require-hashes "$@"
}

# Whether the locked torch is there and whole, whichever build of it.
has_torch() {
  "$venv/bin/python" - "$(grep '^torch==' requirements.txt)" 2>/dev/null <<< \
    'import sys, torch; sys.exit("torch==" + torch.__version__.split("+")[0] != sys.argv[1])'
}

install_torch() {
  has_torch || locked -r locks/torch-cpu.txt 2>/dev/null || {
    locked -r locks/torch.txt || return  # `set -e` does not hold in a condition
    has_torch \
      || "$venv/bin/pip" install --quiet --no-compile "$(grep '^torch==' requirements.txt)" \
        "$(grep '^numpy==' requirements.txt)"
  }
}

# Run a part with its output kept, and say how long it took; on failure show that output.
step() {
  local name=$1 log start=$SECONDS
  shift
  log=$logs/${name//[^a-z]/-}
  if "$@" > "$log" 2>&1; then
    printf 'installed  %s, %d s\n' "$name" $((SECONDS - start))
  else
    printf '%s: not installed\n' "$name"
    cat "$log"
    return 7
  fi
}

case $what in
  first) parts=(locks/first.txt) size="1.3 GB" ;;
  all) parts=(locks/packages.txt locks/data.txt) size="2 GB" ;;
  *) echo "install.sh VENV first|all, and not $what" >&2; exit 2 ;;
esac
echo "installing locked packages into $venv ($size on disk)"
step "torch" install_torch &
torch=$!
failed=0
for part in "${parts[@]}"; do
  name=$(basename "$part" .txt)
  step "$(grep -c == "$part") packages of locks/$name.txt" locked -r "$part" || failed=7
done
wait $torch || failed=7
test $failed = 0 || echo "Not everything is installed: see above. It needs the network, or a mirror that
pip is told of (PIP_INDEX_URL), and $size of disk. Run the same command again: what is there stays."
exit $failed
