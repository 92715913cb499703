"""Which TCP ports are taken, and by whom."""

import socket

import psutil


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def owner(port: int) -> str:
    """Describe the process that listens on `port`, as far as the system shows it."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None:
                continue
            if connection.laddr and connection.laddr.port == port:
                process = psutil.Process(connection.pid)
                torchserve = "org.pytorch.serve.ModelServer" in process.cmdline()
                return f"process {process.pid} ({'TorchServe' if torchserve else process.name()})"
    except psutil.Error:
        pass
    return "another process"
