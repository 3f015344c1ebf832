"""Numbers as the chapters on results write them."""

from cutmix_zoo.evaluation.report_seeds import Difference


def signed(value: float, decimals: int = 2) -> str:
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def interval(difference: Difference, decimals: int = 2) -> str:
    """Write a difference and its interval."""
    low, high = (signed(difference.mean + side * difference.half_width, decimals) for side in (-1, 1))
    return f"{signed(difference.mean, decimals)} ({low} to {high})"


def marked_interval(difference: Difference, decimals: int = 2) -> str:
    """Write a difference and its interval; bold where the interval excludes zero."""
    text = interval(difference, decimals)
    return f"**{text}**" if abs(difference.mean) > difference.half_width else text
