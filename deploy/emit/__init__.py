"""What other servers need to serve an archive: the way out stays open."""
