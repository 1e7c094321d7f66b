"""The way out: scan, plan, chunk, seal, upload, commit. No Luigi here; the tasks call these."""
