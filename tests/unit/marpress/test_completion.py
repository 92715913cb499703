"""Completion, by the shells themselves: what they offer for a line that is half typed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from marpress import completion
from marpress.__main__ import DEPLOY, OPTIMIZE, main

# Prints what bash offers for each line, after the last word of it; as Tab would.
ASK = """\
source "$1"
offer() {
  read -ra COMP_WORDS <<< "$1"
  [[ $1 == *' ' ]] && COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  local function=$(complete -p "${COMP_WORDS[0]}" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
  COMPREPLY=()
  "$function" 2>/dev/null
  printf '%s ' "${COMPREPLY[@]}"
  echo
}
while IFS= read -r line; do offer "$line"; done
"""
LINES = {
    "marpress sta": "start status",
    "marpress status --js": "--json",
    "marpress report artifacts/ph": "artifacts/photos",
    "marpress run r": "recipes",
    "marpress run recipes/f": "recipes/fashion.yaml",
    "marpress describe f": "fancy fashion",
    "marpress describe fas": "fashion",
    "marpress verify ": "fashion fancy",
    "marpress register fa": "fancy.mar fashion.mar",
    "marpress serve ": "photos",
    "marpress token m": "management",
    "marpress emit tri": "triton",
    "marpress emit triton fas": "fashion",
    "marpress export artifacts/photos --to o": "onnx openvino",
    "marpress init --task te": "tensors text_classification text_embedding",
    "marpress completion z": "zsh",
    "python -m deploy des": "describe",
    "python -m optimize com": "compare completion",
    "python -m http.ser": "",
}
# Names that a shell would run, if it read them as words of its own.
RUN = ("$(touch run)", "`touch run`", "x;touch run", "${HOME}", "a b", "q'q", 'q"q', "-x")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, in a working folder with a recipe, two archives and an artifact."""
    place = tmp_path_factory.mktemp("place")
    for folder in ("recipes", "model_store", "artifacts/photos"):
        (place / folder).mkdir(parents=True)
    for file in ("recipes/fashion.yaml", "model_store/fashion.mar", "model_store/fancy.mar"):
        (place / file).touch()
    for name in RUN:
        (place / "model_store" / f"{name}.mar").touch()
        (place / "artifacts" / name).mkdir()
    for shell in completion.SHELLS:
        (place / f"marpress.{shell}").write_text(completion.script(shell))
    return place


def test_bash_completes(scripts: Path) -> None:
    (scripts / "ask").write_text(ASK)
    done = subprocess.run(
        ["bash", "--norc", "ask", "marpress.bash"],
        cwd=scripts,
        input="".join(f"{line}\n" for line in LINES),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    offered = [sorted(line.split()) for line in done.stdout.splitlines()]
    assert dict(zip(LINES, offered, strict=True)) == {
        line: sorted(words.split()) for line, words in LINES.items()
    }
    assert not (scripts / "run").exists()


def test_every_command_is_offered(scripts: Path) -> None:
    (commands,) = [
        line
        for line in (scripts / "marpress.bash").read_text().splitlines()
        if line.startswith("_shtab_marpress_subparsers=")
    ]
    offered = commands.partition("(")[2].rstrip(")").split()
    assert sorted(offered) == sorted(["init", "completion", *OPTIMIZE, *DEPLOY])


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_no_python_runs_to_complete(scripts: Path, shell: str) -> None:
    text = (scripts / f"marpress.{shell}").read_text()
    assert "python -m" not in "".join(
        line for line in text.splitlines() if not line.lstrip().startswith("#")
    )
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(scripts / f"marpress.{shell}")], check=True)


def test_the_command_prints_it(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == (scripts / "marpress.bash").read_text() + "\n"
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2
