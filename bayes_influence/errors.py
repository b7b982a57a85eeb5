"""The base class of the library's own errors."""


class BayesInfluenceError(Exception):
    """Something that this library has a name for went wrong: a solve, a training, a stored file, a conversion.

    Every error class of the library is one and keeps the built-in class that says its kind (`ValueError`,
    `RuntimeError`, ...), so that either may be caught. A wrong argument is a plain `ValueError` or `TypeError`.
    """
