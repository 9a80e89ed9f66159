"""How the Hugging Face Hub is asked."""
