"""TorchServe's default handlers, for a worker without the package `ts`."""
