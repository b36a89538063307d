"""The page that raters open: one file, which loads nothing and sends nothing."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from persona_prune.rate.ballots import Sheet


def page(sheet: Sheet) -> str:
    """Return the page as HTML. Who gave which answer is not in it."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("persona_prune.rate", "."), PackageLoader("persona_prune.report", "templates")]
        ),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = {"page": sheet.digest, "seed": sheet.seed, "ballots": [ballot.shown for ballot in sheet.ballots]}
    return environment.get_template("page.html").render(content=content)
