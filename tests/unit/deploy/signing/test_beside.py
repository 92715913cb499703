"""What lies beside an archive goes where it goes."""

from pathlib import Path

from deploy.signing import beside


def test_it_goes_along_and_nothing_older_stays(tmp_path: Path) -> None:
    one, two = tmp_path / "one.mar", tmp_path / "two.mar"
    beside.write(beside.signature(one), b"signature")
    beside.write(beside.statement(two), b"of what was there before")
    beside.carry(one, two)
    assert beside.signature(two).read_bytes() == b"signature"
    assert not beside.statement(two).exists()
    beside.write(beside.signature(one), b"a newer one")
    beside.carry(one, two)
    assert beside.signature(two).read_bytes() == b"a newer one"
    beside.carry(two, two)
    assert beside.signature(two).read_bytes() == b"a newer one"
    beside.remove(one)
    beside.carry(one, two)
    assert not list(tmp_path.iterdir())


def test_names_are_those_that_tools_expect(tmp_path: Path) -> None:
    archive = tmp_path / "colours.mar"
    assert beside.signature(archive).name == "colours.mar.sig"
    assert beside.statement(archive).name == "colours.mar.intoto.json"
