"""What `train.py` calls: from a data set and a base model to artifacts with their scores."""
