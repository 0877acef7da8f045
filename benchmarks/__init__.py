"""What the README claims, measured: one script a claim."""
