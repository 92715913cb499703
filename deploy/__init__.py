"""Archives, TorchServe's management API and the server process: everything after `optimize`."""
