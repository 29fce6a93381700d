"""``fluxy-sync completion``: what makes a shell complete our commands."""

import os
from typing import ClassVar

import click
from click.shell_completion import BashComplete, add_completion_class, get_completion_class

COMPLETE_VARIABLE = "_FLUXY_SYNC_COMPLETE"


class BashWithColons(BashComplete):
    """Click's completion for bash, for values with colons and spaces as well, such as the lane ``user:42``.

    Bash breaks words at colons: the words are taken from the line itself, and what stands before the last colon isn't
    repeated.
    """

    source_template: ClassVar[str] = r"""%(complete_func)s() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" word before="" item kind value
    word="${line##*[[:space:]=]}"
    [[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && before="${word%%"${word##*:}"}"
    COMPREPLY=()
    for item in $(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null); do
        kind="${item%%%%,*}" value="${item#*,}"
        case "$kind" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) printf -v value '%%q' "${value#"$before"}"; COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is being typed, and that one."""
        from click.shell_completion import split_arg_string

        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() else (words[:-1], words[-1] if words else "")


add_completion_class(BashWithColons)


@click.command(short_help="Print the script for completion on Tab.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, lanes and the ids of dead letters on Tab.

    \b
    Examples:
      eval "$(fluxy-sync completion bash)"                                        # in ~/.bashrc
      eval "$(fluxy-sync completion zsh)"                                         # in ~/.zshrc, after compinit
      fluxy-sync completion fish > ~/.config/fish/completions/fluxy-sync.fish
    """
    root = context.find_root()
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(root.command, {}, root.info_name or "", COMPLETE_VARIABLE).source())
