"""The Train tab: one module per step of the walkthrough."""
