"""Names that some file system takes for the same. Pure."""

import unicodedata


def folded(name: str) -> str:
    """Equal for names that differ by case, or by how their accents are written, only."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).casefold()
