"""Errors in one line."""


def one_line(error: BaseException) -> str:
    """Return an error as one line; its type is named unless it is a plain message to the user."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"
