"""The other servers, each with the handler of `benchmarks.serve.application`.

Each is set up as its own documentation advises for a CPU: two processes, a thread each; batches
where the server makes them.
"""
