"""Labelled images: loading, inspecting, splitting and exporting them."""
