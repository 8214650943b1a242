"""What travels between groups: who teaches whom, snapshots, their precision, where they lie."""
