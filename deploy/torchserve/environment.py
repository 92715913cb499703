"""Which variables of the shell's environment TorchServe and its workers get.

The rest stays out: an archive's code reads all that its worker has. `config.properties` says the
same to a TorchServe that is started by hand.
"""

import re
from collections.abc import Mapping

# A comma-separated list of further names.
MORE = "MARPRESS_PASS_ENV"
WITHHELD = (
    r"(?i)(?!(?:PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|SHELL|TERM|HOSTNAME|PWD|TMPDIR|TEMP"
    r"|PYTHONPATH|PYTHONUNBUFFERED|VIRTUAL_ENV|JAVA_HOME|LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES"
    r"|LOG_LOCATION|METRICS_LOCATION|GRPC_LOCATION"
    r"|(?:LC|OMP|GOMP|KMP|MKL|DNNL|ONEDNN|ATEN|TORCH|PYTORCH|OPENBLAS|MALLOC|CUDA|NVIDIA)_.*)$).*"
    r"|.*(?:secret|token|passw|credential|key).*"
)


def passed(shell: Mapping[str, str]) -> dict[str, str]:
    """The variables of `shell` that a server may see."""
    more = {name.strip() for name in shell.get(MORE, "").split(",")}
    return {
        name: value
        for name, value in shell.items()
        if name in more or not re.fullmatch(WITHHELD, name)
    }
