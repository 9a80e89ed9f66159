"""The Predict tab: one photo, several, two models beside each other, the live camera."""
