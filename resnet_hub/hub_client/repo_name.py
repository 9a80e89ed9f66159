"""The form of a repo's name on the Hub."""


def is_repo_name(text: str) -> bool:
    """Whether a text has the form `user/name` that the Hub accepts. Sends no request."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1
