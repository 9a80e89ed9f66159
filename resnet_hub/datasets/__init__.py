"""Datasets of labelled images: loading, inspecting, splitting and exporting them."""
