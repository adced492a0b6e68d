"""A progress bar for searches."""

from types import TracebackType

from tqdm import tqdm


class SearchBar:
    """Show images shown, images allowed and the mean best activation while the context is open.

    Args:
        title: What stands before the bar.
    """

    def __init__(self, title: str) -> None:
        self._bar = tqdm(desc=title, unit="img", leave=False, delay=0.2)

    def __enter__(self) -> "SearchBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def show(self, shown: int, total: int, activation: float) -> None:
        """Move the bar; the form of `spikelens.am.search.Progress`."""
        self._bar.total = total
        self._bar.set_postfix(activation=f"{activation:.3f}", refresh=False)
        self._bar.update(shown - self._bar.n)
