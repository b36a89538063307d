"""``python -m persona_prune.tasks``: print the tasks' directory; with ``--write``, make the personas' files again."""

import argparse

from persona_prune.tasks import DIRECTORY, persona_files


def main() -> None:
    """Print the directory, or write the files."""
    parser = argparse.ArgumentParser(prog="python -m persona_prune.tasks")
    parser.add_argument("--write", action="store_true", help="after a persona was added: make the task files again")
    if parser.parse_args().write:
        from persona_prune.common.conf_files import config_directory
        from persona_prune.personas.pair_files import EMBEDDED

        for name, text in persona_files(config_directory() / "persona", EMBEDDED).items():
            (DIRECTORY / name).write_text(text, encoding="utf-8")
    print(DIRECTORY)


if __name__ == "__main__":
    main()
