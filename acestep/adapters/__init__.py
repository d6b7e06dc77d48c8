"""After training: loading adapters of every kind."""
