"""Search for hyperparameters on validation rows."""
