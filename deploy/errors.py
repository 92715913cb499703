"""Errors a person can cause or meet while deploying, each with the exit code that says so."""

REFUSED = 1
BAD_INPUT = 2
GATE_FAILED = 3
NO_SERVER = 4
UNPROVEN = 6
ENVIRONMENT = 7


class DeployError(Exception):
    """Base of every expected failure; `exit_code` is what the command line returns."""

    exit_code = REFUSED


class BadInput(DeployError):
    """A file or an argument is missing or wrong; nothing was changed."""

    exit_code = BAD_INPUT


class GateFailed(DeployError):
    """The artifact's report says that it missed its accuracy budget."""

    exit_code = GATE_FAILED


class NotAsReported(BadInput):
    """A file is not the one that the artifact's report was measured on, or that was sealed."""

    exit_code = UNPROVEN


class Unsafe(DeployError):
    """An archive holds what could do more than compute; nothing of it was run or kept."""

    exit_code = UNPROVEN


class Untrusted(DeployError):
    """An archive is not signed by a key that is trusted, or not as it was signed."""

    exit_code = UNPROVEN


class Missing(DeployError):
    """A package is not installed that an archive's handler imports."""

    exit_code = ENVIRONMENT


class NoServer(DeployError):
    """No TorchServe answers, or one could not be started."""

    exit_code = NO_SERVER


class Unproven(DeployError):
    """A new version did not answer as it must; the version before it still serves."""

    exit_code = UNPROVEN


class Refused(DeployError):
    """TorchServe answered with an error.

    `status` is the HTTP status, `kind` TorchServe's exception name (its JSON field
    `type`) or the handler's error type, `detail` its message as sent.
    """

    def __init__(self, message: str, status: int, kind: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.detail = detail


class TokenRefused(Refused):
    """The token is missing, wrong or expired."""


class UrlRefused(Refused):
    """The archive's address is outside `allowed_urls`, or names no archive of the model store."""


class ModelNotFound(Refused):
    """No such model, or no such version of it, is registered."""


class Conflict(Refused):
    """That model and version are registered already."""


class WorkerDied(Refused):
    """The workers could not start or died; the message carries the end of their log."""
