"""Which variables of the shell's environment TorchServe and its workers get.

The rest stays out: an archive's code reads all that its worker has. TorchServe itself keeps what
`blacklist_env_vars` of config.properties matches from its workers; here it is kept from the server
too, whose memory is no better a place for secrets.
"""

import re
from collections.abc import Mapping

from deploy.errors import BadInput

WITHHELD = (
    r"(?i)(?!(?:PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|SHELL|TERM|HOSTNAME|PWD|TMPDIR|TEMP"
    r"|PYTHONPATH|PYTHONUNBUFFERED|VIRTUAL_ENV|JAVA_HOME|LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES"
    r"|LOG_LOCATION|METRICS_LOCATION|GRPC_LOCATION"
    r"|(?:LC|OMP|GOMP|KMP|MKL|DNNL|ONEDNN|ATEN|TORCH|PYTORCH|OPENBLAS|MALLOC|CUDA|NVIDIA)_.*)$).*"
    r"|.*(?:secret|token|passw|credential|key).*"
)


def passed(shell: Mapping[str, str], withheld: str = WITHHELD) -> dict[str, str]:
    """The variables of `shell` whose names the expression does not match. Raises BadInput."""
    try:
        expression = re.compile(withheld)
    except re.error as error:
        raise BadInput(
            f"blacklist_env_vars={withheld} is no regular expression: {error}"
        ) from error
    return {name: value for name, value in shell.items() if not expression.fullmatch(name)}
