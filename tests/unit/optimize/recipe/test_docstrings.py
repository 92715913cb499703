"""What docstrings say of options."""

from optimize.recipe import docstrings


class Base:
    """A base.

    Attributes:
        width: of a layer,
            in channels.
        low, high: the range.
    """


class Child(Base):
    """One line
    over two.

    Attributes:
        low: another word for it: less.

    Raises:
        ValueError: nothing of this is an option.
    """


def test_entries_of_a_class_and_its_bases() -> None:
    assert docstrings.entries(Child) == {
        "width": "of a layer, in channels.",
        "low": "another word for it: less.",
        "high": "the range.",
    }


def test_entries_of_a_function() -> None:
    def load(path: str) -> None:
        """Load.

        Args:
            path: of the file.

        Returns:
            width: no argument.
        """

    assert docstrings.entries(load) == {"path": "of the file."}


def test_the_summary_is_one_line() -> None:
    assert docstrings.summary(Child) == "One line over two."
    assert docstrings.summary(lambda: None) == ""
