"""Models that the experiments of the paper are made with."""
