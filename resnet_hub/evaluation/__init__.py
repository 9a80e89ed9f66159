"""Evaluation of models on labelled images."""
