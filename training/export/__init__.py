"""Export trained weights as the artifact that is served."""
