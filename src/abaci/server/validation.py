"""What pydantic finds wrong with a request or a setting, as a hint: what the value should be. Knows neither of them."""


def demand(message: str) -> str:
    """A sentence that says what to give, from the message of a pydantic error such as "Input should be a list"."""
    wanted = message.removeprefix("Value error, ").replace("Input should", "It should", 1)
    return f"{wanted[:1].upper()}{wanted[1:].removesuffix('.')}."
