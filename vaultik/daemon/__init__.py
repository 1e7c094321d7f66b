"""The daemon: watches the sources, and runs a backup when one is due."""
