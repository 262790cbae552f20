"""Show the progress of a registration as a bar, in a notebook or on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """Show a bar while the block runs; the function it gives takes a fraction from 0 to 1 and the name of the step."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text
        from tqdm.auto import tqdm
    with tqdm(total=100, desc="reading", leave=False, bar_format="{desc} {bar} {percentage:3.0f}% {elapsed}") as bar:

        def update(fraction: float, step: str) -> None:
            bar.set_description_str(step, refresh=False)
            bar.update(100 * fraction - bar.n)

        yield update
