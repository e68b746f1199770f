"""The federation: its file, the FL client, aggregation, the runner and the run folder."""
