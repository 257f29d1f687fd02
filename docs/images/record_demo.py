"""Record the output of `nox -s demo` as docs/images/demo.svg.

    .nox/tests/bin/python docs/images/record_demo.py

Run it in the environment of `nox -s tests`, which has rich. The demo runs in a pseudo-terminal, so that its output has the
escape sequences of a terminal. The port and the random ids are replaced by fixed ones, so that a new recording differs
only where the demo does.
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

FOLDER = Path(__file__).resolve().parent
DEMO = FOLDER.parents[1] / "examples" / "demo.py"
COMMAND = "python3 -m nox -s demo"
COLUMNS = 92
END = "All steps succeeded."

THEME = TerminalTheme(
    background=(24, 27, 33),
    foreground=(224, 228, 235),
    normal=[
        *((24, 27, 33), (224, 108, 117), (152, 195, 121), (229, 192, 123)),
        *((97, 175, 239), (198, 120, 221), (86, 182, 194), (224, 228, 235)),
    ],
)
# rich's own template loads a font from a content delivery network; this one uses the fonts of the reader's system.
TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{unique_id}-title">
<title id="{unique_id}-title">Terminal output of the demo</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font: 18px system-ui, "DejaVu Sans", sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> int:
    """Run the demo and write the image; return the exit status of the demo."""
    output = io.BytesIO()

    def read(terminal: int) -> bytes:
        data = os.read(terminal, 65536)
        output.write(data)
        return data

    status = os.waitstatus_to_exitcode(pty.spawn([sys.executable, str(DEMO)], read))
    if status == 0:
        (FOLDER / "demo.svg").write_text(svg(output.getvalue().decode()), encoding="utf-8")
    return status


def svg(output: str) -> str:
    """The output up to its closing remarks, as SVG."""
    text = output.replace("\r\n", "\n").partition(END)[0]
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:4000", text)
    text = re.sub(r"session [0-9a-f]{32}", "session 5f2c9a71", text)
    text = re.sub(r"event [0-9a-z]+\.", "event 48kj6ghl.", text)
    text = text.rpartition("\n")[0]  # the mark before END
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"[bold green]$[/] [bold]{COMMAND}[/]")
    console.print(Text.from_ansi(text.rstrip()))
    return console.export_svg(title="CMDC Gateway", theme=THEME, code_format=TEMPLATE, unique_id="demo")


if __name__ == "__main__":
    raise SystemExit(main())
