"""The measurements behind the README: one script for each claim."""
