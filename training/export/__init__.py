"""From trained weights to the artifact that is served."""
