"""The training behind `train.py`: from a data set and a base model to artifacts and their metrics."""
