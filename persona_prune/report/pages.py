"""The templates of the pages."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def environment() -> Environment:
    """Return the templates; what is put into them is escaped unless it is markup already."""
    return Environment(
        loader=PackageLoader("persona_prune.report", "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
