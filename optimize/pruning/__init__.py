"""Parts of `optimize.pruning.prune`: the dependency graph, dead channels, single weights."""
