"""The exceptions and warnings of mechkit.

Every message names the place, what was expected against what was got, and the fix. All errors derive from
`MechkitError`; those about a wrong value also derive from `ValueError`, so that plain Python habits work.
"""


class MechkitError(Exception):
    """Base of every error that mechkit raises on purpose."""


class SiteError(MechkitError, ValueError):
    """A site that does not parse, does not exist in this model, or cannot be read or written there."""


class EditError(MechkitError, ValueError):
    """An edit that is malformed, does not fit the activation it is applied to, or never fired."""


class InputError(MechkitError, ValueError):
    """Tokens, prompts or positions that a model cannot take."""


class LoadError(MechkitError):
    """A model could not be loaded; the subclasses say why."""


class UnknownModelError(LoadError, ValueError):
    """No zoo name, folder, file or hub id matches."""


class UnsupportedArchitectureError(LoadError):
    """The module's architecture has no adapter."""


class BrokenFileError(LoadError):
    """A file is missing, truncated, or does not fit the architecture."""


class UnsafeFileError(LoadError):
    """A file that could only be read by running code from it."""


class MissingTokenizerError(LoadError):
    """Text was given, or needed, but the model has no tokenizer."""


class NetworkError(LoadError):
    """A download was needed and the network did not answer."""


class TaskError(MechkitError, ValueError):
    """A task that cannot be built: no usable pairs, tokens that do not line up, an unknown position or split."""


class MetricError(MechkitError, ValueError):
    """A metric that returned the wrong shape or non-finite values, or lacks what it needs."""


class PatchingError(MechkitError, ValueError):
    """A patching sweep that is malformed or that changed nothing."""


class ResultError(MechkitError, ValueError):
    """A result that cannot be built, selected from, plotted, saved or loaded."""


class ChromeMissingError(MechkitError):
    """A figure was to be written as PNG, SVG or PDF, and no Chrome is there to draw it."""


class MechkitWarning(UserWarning):
    """Base of every warning that mechkit gives."""


class BehaviourWarning(MechkitWarning):
    """The model does not show the behaviour that the task measures."""


class DroppedPairsWarning(MechkitWarning):
    """Some pairs were dropped; the message gives the count for each reason."""


class FallbackWarning(MechkitWarning):
    """A fast method did not apply, and the slow, equal one ran instead."""
