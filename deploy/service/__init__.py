"""The same archives without TorchServe: a Flask service with its routes, and other APIs."""
