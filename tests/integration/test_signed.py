"""Signed archives on a real TorchServe, whose settings ask for a signature."""

import json
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.torchserve import torchserve, workplace
from tests.unit.deploy.evidence import stated
from tests.unit.deploy.signing import made


def test_what_is_signed_is_served_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> int:
        options = ("--workdir", workdir, "--config", workdir / "config.properties")
        stores = ("--model-store", store, "--artifacts", workdir / "artifacts")
        return main([*words, *map(str, (*options, *stores))])

    def shown() -> str:
        return capsys.readouterr().out

    with workplace(require_signature="true", trusted_keys="release.pub.pem") as workdir:
        store: Path = workdir / "model_store"
        key = made.pair(workdir)
        short = key.public.fingerprint[:16]
        stated.make(workdir / "artifacts")
        mar.seal(quadrant.make(workdir / "artifacts", "other"), store)
        with torchserve(workdir) as running:
            assert run("serve", "quadrant", "--sign", str(key.private_file)) == 0
            assert f"\nsigned    by release (key {short})\n" in shown()
            assert (store / "quadrant.mar.sig").is_file()
            assert run("register", "other.mar") == 6
            assert list(running.management.models()) == ["quadrant"]
            assert run("status") == 0
            assert f"1 of 1 ready, signed by release (key {short})" in shown()
            assert run("describe", "quadrant", "--customized") == 0
            (told,) = json.loads(shown())
            assert told["signature"] == f"signed by release (key {short})"
            described = told["customizedMetadata"]
            about = described["statement"]["subject"][0]
            assert about["name"] == "model.pt"
            assert about["digest"]["sha256"] == described["report"]["files"]["model.pt"]
            assert described["bom"]["metadata"]["component"]["name"] == "quadrant"
            # Served again it is up to date, and stays signed without the key.
            assert run("serve", "quadrant") == 0
            assert f"\nsigned    by release (key {short})\n" in shown()
            mar.sign(store / "other.mar", key.private)
            assert run("register", "other.mar") == 0
            assert shown().endswith(f"signed by release (key {short})\n")
