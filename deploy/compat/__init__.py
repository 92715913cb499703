"""What handlers written for TorchServe find in a worker: its package `ts`, and its rules.

Only a worker's own process loads these modules under TorchServe's names (`names.provide`).
"""
