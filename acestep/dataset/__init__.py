"""Songs become rows of an Arrow dataset: encoding, cache, schema."""
