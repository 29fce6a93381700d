"""``python -m tests.chaos [NAME...]``: run the trials one after another, and tell what held."""

import importlib
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tests.chaos import trials
from tests.chaos.trial import TRIALS, Broken, Figure, LeftOut, Run, Trial


class Outcome(NamedTuple):
    """What became of one trial. ``word``: held, broken or left out; ``why`` the evidence, or what is missing."""

    trial: Trial
    word: str
    why: str
    seconds: float
    figures: list[Figure]


def load() -> None:
    """Let all modules of trials register theirs."""
    for module in pkgutil.iter_modules(trials.__path__):
        importlib.import_module(f"{trials.__name__}.{module.name}")


@click.command(context_settings={"max_content_width": 100})
@click.argument("names", nargs=-1)
@click.option("--seed", type=int, envvar="SEED", help="Do again what an earlier run did.  [default: a random one]")
@click.option(
    "--full", is_flag=True, envvar="FULL", help="Take as long as it takes: more of everything, and long soaks."
)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the logs and data of all trials here.")
@click.option("--list", "listing", is_flag=True, help="Show the trials, and end.")
def main(names: tuple[str, ...], seed: int | None, full: bool, keep: Path | None, listing: bool) -> None:
    """Try to lose, double, reorder or read an operation, by all faults that the machine can make.

    Exit codes: 0 every promise held, 1 one was broken, 2 wrong usage.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a trial ends its processes
    load()
    if unknown := [name for name in names if name not in TRIALS]:
        raise click.UsageError(f"no such trial: {', '.join(unknown)}; --list shows them")
    if listing:
        for one in TRIALS.values():
            click.echo(f"{one.name:24} {'' if one.short else '(full) '}{one.promise}")
        return
    chosen = [TRIALS[name] for name in names] or [one for one in TRIALS.values() if one.short or full]
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    again = f"SEED={seed} make chaos" + (" FULL=1" if full else "")
    click.echo(f"{len(chosen)} trials, seed {seed}; again: {again}{''.join(f' ARGS={name}' for name in names[:1])}")
    outcomes = list(run_all(chosen, seed, full, keep))
    report(outcomes, again)
    sys.exit(any(one.word == "broken" for one in outcomes))


def run_all(chosen: list[Trial], seed: int, full: bool, keep: Path | None) -> Iterator[Outcome]:
    """Run them in a directory each; that of a broken one is kept."""
    home = Path(tempfile.mkdtemp(prefix="fluxy-chaos-")) if keep is None else keep.absolute()
    os.environ["TMPDIR"] = str(home / "tmp")  # a pool that is killed leaves its temporary directory
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    broken = False
    for one in chosen:
        outcome = run_one(one, seed, full, home / one.name)
        broken = broken or outcome.word == "broken"
        if outcome.word != "broken" and keep is None:
            shutil.rmtree(home / one.name, ignore_errors=True)
        yield outcome
    if broken:
        click.echo(f"the data and logs of what broke are in {home}")
    elif keep is None:
        shutil.rmtree(home, ignore_errors=True)


def run_one(one: Trial, seed: int, full: bool, folder: Path) -> Outcome:
    """Run one trial, and judge its figures."""
    folder.mkdir(parents=True)
    click.echo(f"\n{one.name}: {one.promise}")
    run = Run(one.name, seed, full, folder, lambda text: click.echo(f"  {text}"))
    began, word, why = time.monotonic(), "held", ""
    try:
        one.run(run)
        missed = [str(figure) for figure in run.figures if not figure.met]
        if missed:
            word, why = "broken", "; ".join(missed)
    except LeftOut as error:
        word, why = "left out", str(error)
    except Broken as error:
        word, why = "broken", str(error)
    except Exception:  # noqa: BLE001 -- a trial that fails proves nothing; the others still run
        word, why = "broken", traceback.format_exc()
    seconds = time.monotonic() - began
    click.echo(f"  {word} after {seconds:.0f} s{why and ': ' + why}")
    return Outcome(one, word, why, seconds, run.figures)


def report(outcomes: list[Outcome], again: str) -> None:
    """All figures in one table, and a last line that says it all."""
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    for heading in ("trial", "figure", "", "bound", ""):
        table.add_column(heading, overflow="fold")
    for one in outcomes:
        table.add_row(one.trial.name, f"{one.seconds:.0f} s", "", "", one.word)
        for figure in one.figures:
            value = str(figure).removeprefix(f"{figure.name}: ").partition(" (")[0]
            table.add_row("", figure.name, value, figure.bound, "" if figure.met else "missed")
    click.echo()
    Console().print(table)
    for one in outcomes:
        if one.why:
            click.echo(f"{one.word}: {one.trial.name}: {one.why.strip().splitlines()[-1]}")
    if broken := [one.trial.name for one in outcomes if one.word == "broken"]:
        click.echo(f"BROKEN: {', '.join(broken)}; again: {again} ARGS={broken[0]}")
    else:
        click.echo(f"every promise held ({again})")


if __name__ == "__main__":
    main()
