"""Errors a user can cause, each with an exit code of its own."""


class OptimizeError(Exception):
    """Base of every error that is the user's to mend; `exit_code` is what the command returns."""

    exit_code = 1


class RecipeError(OptimizeError):
    """A recipe that cannot be run: says file, line and what was expected. Exit code 2."""

    exit_code = 2

    def __init__(self, message: str, file: str = "", line: int | None = None) -> None:
        where = f"{file}:{line}: " if line is not None else f"{file}: " if file else ""
        super().__init__(where + message)


class OptionError(OptimizeError, ValueError):
    """An option that does not fit the model or data it is used on. Exit code 2."""

    exit_code = 2


class BudgetMissed(OptimizeError):
    """The compressed model lost more than the recipe's budget allows. Exit code 3."""

    exit_code = 3


class DataError(OptimizeError):
    """Data or weights that are missing or unusable. Exit code 4."""

    exit_code = 4


class ModelError(OptimizeError):
    """A model that a stage cannot handle (cannot be traced, quantized, ...). Exit code 5."""

    exit_code = 5


class ParityError(OptimizeError):
    """A saved file that does not answer as the module it was saved from. Exit code 6."""

    exit_code = 6


class EvidenceError(OptimizeError):
    """A report that is not as it was written. Exit code 6."""

    exit_code = 6


class StorageError(OptimizeError):
    """A file could not be written: no space, no permission. Exit code 7."""

    exit_code = 7


class FolderBusy(StorageError):
    """Another process is at work in the artifact's folder. Exit code 7."""


class ExtraMissing(OptimizeError):
    """A format's packages are not installed; says which command brings them. Exit code 2."""

    exit_code = 2


class ExportRefused(OptimizeError):
    """An exported file failed its check and was deleted. Exit code 8."""

    exit_code = 8
