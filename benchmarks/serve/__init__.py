"""The serving race: our archives in TorchServe and in our own service, against other servers.

    make bench-serve            (python -m benchmarks.serve race)

Every server gets the same file, the same handler object and two worker processes of one thread,
set up as its own documentation advises for a CPU. wrk sends from 1, 4, 16 and 64 connections that
stay open; servers take turns, in an order that changes with every round, and the handler called
in two processes without a server, the ceiling, takes its turn among them.
"""
