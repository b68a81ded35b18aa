"""Lists of whole numbers as a user types them."""


def numbers_of(option: str, text: str) -> list[int]:
    """Whole numbers, separated by commas.

    Raises:
        ConfigError: one is none; the message names the option.
    """
    from peftbench.errors import ConfigError

    try:
        return [int(each) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}, expected whole numbers separated by commas, e.g. 2,4,8") from error
