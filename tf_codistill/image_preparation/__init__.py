"""From class folders or an archive to image records that training reads, see `pipeline`."""
