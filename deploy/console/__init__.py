"""The console: one page on loopback in front of a running TorchServe or of our service."""
