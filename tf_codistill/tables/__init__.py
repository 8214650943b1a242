"""Tables of clicks: from text or Parquet to encoded rows of which any can be read at once."""
