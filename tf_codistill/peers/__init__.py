"""Peers: who teaches whom, how snapshots travel, and the frozen models that hold them."""
