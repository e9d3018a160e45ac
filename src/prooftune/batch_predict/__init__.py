"""Batch prediction: add a bundle's predictions to the rows of a file of any size."""

from prooftune.batch_predict.columns import output_columns
from prooftune.batch_predict.predict import Summary, predict_file

__all__ = ["Summary", "output_columns", "predict_file"]
