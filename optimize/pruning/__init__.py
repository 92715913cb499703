"""Parts of `optimize.prune`: the dependency graph, dead channels, single weights."""
