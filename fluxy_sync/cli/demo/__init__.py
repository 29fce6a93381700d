"""``fluxy-sync demo``."""
import click

@click.command()
def demo() -> None:
    """todo"""
