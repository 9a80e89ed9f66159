"""Datasets of labeled images: loading, inspecting, splitting and exporting them."""
