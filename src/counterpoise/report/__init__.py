"""One self-contained page of HTML about one comparison, readable offline."""

from counterpoise.report.page import write_report
from counterpoise.report.words import answer

__all__ = ["answer", "write_report"]
