"""From web pages to token shards, offline: WET files, filters, duplicates, pipeline."""
