"""Figures written as image files, by kaleido and a Chrome that is already there."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import plotly.graph_objects as go

from ._files import replacing
from .errors import ChromeMissingError, ResultError

__all__ = ["write_image", "write_images"]

FORMATS = ("png", "svg", "pdf")


def write_image(figure: go.Figure, path: str | Path, *, scale: float = 2.0) -> Path:
    """Write one figure as PNG, SVG or PDF, by the suffix of `path`; several at once go faster by `write_images`.

    Raises `ChromeMissingError` where kaleido or Chrome is missing, `ResultError` for another suffix or where Chrome
    does not draw the figure. The file appears whole or not at all.
    """
    return write_images({path: figure}, scale=scale)[0]


def write_images(
    figures: Mapping[str, go.Figure] | Mapping[Path, go.Figure] | Mapping[str | Path, go.Figure], *, scale: float = 2.0
) -> list[Path]:
    """Write figures, given by path, in one start of the browser (which takes seconds); errors as in `write_image`."""
    paths = [Path(path) for path in figures]
    for path in paths:
        if path.suffix.lower().lstrip(".") not in FORMATS:
            raise ResultError(f"write_image: expected a path that ends in .png, .svg or .pdf, got {path.name!r}")
    if not paths:
        return []
    try:
        import kaleido
        from kaleido import errors as kaleido_errors
    except ImportError as error:
        raise ChromeMissingError(
            "Writing PNG, SVG or PDF needs the package kaleido: pip install 'mechkit-interp[png]', or write the "
            "interactive page with figure.write_html(...)"
        ) from error
    with ExitStack() as stack:
        specifications = [
            {
                "fig": figure.to_dict(),
                "path": stack.enter_context(replacing(path)),
                "opts": {
                    "format": path.suffix.lower().lstrip("."),
                    "width": figure.layout.width or 900,
                    "height": figure.layout.height or 600,
                    "scale": scale,
                },
            }
            for path, figure in zip(paths, figures.values(), strict=True)
        ]
        try:
            with _quiet():
                # without this option MathJax would be fetched from the network
                kaleido.write_fig_from_object_sync(specifications, cancel_on_error=True, kopts={"mathjax": False})
        except (kaleido_errors.ChromeNotFoundError, kaleido_errors.BrowserFailedError) as error:
            raise ChromeMissingError(
                "Writing PNG, SVG or PDF needs Chrome or Chromium, and none was found that starts "
                f"({type(error).__name__}). Install one (Debian: apt-get install chromium; elsewhere: "
                "plotly_get_chrome), or write the interactive page with figure.write_html(...)"
            ) from error
        except (kaleido_errors.KaleidoError, kaleido_errors.BrowserClosedError, TimeoutError) as error:
            raise ResultError(f"write_image: Chrome started but did not draw {paths[0].name!r}: {error}") from error
    return paths


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the browser's driver logs while it shuts down; failures still arrive as exceptions."""
    logger = logging.getLogger("choreographer")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # a kaleido server that the user started says so when it gets options
            warnings.filterwarnings("ignore", message="The kopts argument is ignored")
            yield
    finally:
        logger.setLevel(level)
