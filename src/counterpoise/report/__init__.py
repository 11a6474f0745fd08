"""One self-contained page of HTML about one comparison, readable offline."""

from counterpoise.report.formatting import answer
from counterpoise.report.page import write_report

__all__ = ["answer", "write_report"]
