"""To go on exactly: what a checkpoint of training holds, when it is written, how `fit` continues from it."""
