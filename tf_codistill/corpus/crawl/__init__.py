"""Files of a crawl: where bytes come from, and how they are fetched."""
