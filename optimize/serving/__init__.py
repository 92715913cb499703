"""Which runtime serves an artifact: every candidate raced against its TorchScript file."""
