"""Write every claim of the paper beside what was found here: ``python -m experiments.claims``."""

from collections import Counter
from pathlib import Path

from experiments.findings import CLAIM_COLUMNS, HOME, claim_rows, load_found, paper
from experiments.tables import markdown, write_block


def main(home: Path = HOME) -> None:
    """Write the generated block of the page from every folder's ``results.json``."""
    write_block(home / "README.md", page(home))


def page(home: Path) -> str:
    """Return the table of all claims, the number of each verdict on top."""
    rows, sources = [], []
    for folder, about in paper(home).items():
        found = load_found(home / folder)
        title = f"[{about['title']}]({folder}/README.md)"
        rows += [[title, *row] for row in claim_rows(folder, found, home)]
        sources.append(f"- {title}: {about['source']}{f'. Here: {found.settings}' if found else ''}")
    counts = Counter(row[-1].partition(":")[0] for row in rows)
    said = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
    return f"{len(rows)} claims: {said}.\n\n{markdown(['folder', *CLAIM_COLUMNS], rows)}\n\n" + "\n".join(sources)


if __name__ == "__main__":
    main()
