"""Which TCP ports are taken, and by whom."""

import socket

import psutil


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def owner(port: int) -> str:
    """Describe the process that listens on `port`, as far as the system tells."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                if connection.pid is None:
                    break
                command = psutil.Process(connection.pid).cmdline()
                kind = "TorchServe" if "org.pytorch.serve.ModelServer" in command else command[:1]
                return f"process {connection.pid} ({kind if isinstance(kind, str) else kind[0]})"
    except (psutil.Error, IndexError):
        pass
    return "another process"
