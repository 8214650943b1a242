"""Where teaching comes from: peers' snapshots, saved models, fellow students; `base` is the protocol."""
