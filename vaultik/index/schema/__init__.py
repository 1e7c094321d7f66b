"""Numbered schema steps, applied in order and recorded in the table `migrations`."""
