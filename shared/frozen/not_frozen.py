"""Why something is not frozen, which is no failure: whoever wanted it goes on without."""


class NotFrozenError(Exception):
    """Nothing was cloned, or nothing follows from what was. Says why, in words."""
