"""Shell completion: Hydra's, for every way in which this program is called in bash.

Hydra's own script knows `python FILE.py` with its decorator in that file, and programs with one
configuration. This one also knows `python -m embedllm COMMAND` and `embedllm COMMAND`; what can
come next is Hydra's answer. Other shells get Hydra's scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_OPTIONS: Final = ("-sc", "--shell-completion", "--shell_completion")

# COMP_WORDBREAKS without "=": a word is a whole override.
_BASH: Final = """\
_embedllm_completion() {
    local line="${COMP_LINE:0:$COMP_POINT}" words run rest
    read -r -a words <<< "$line"
    case "${words[0]##*/}" in
        embedllm) run=("${words[@]:0:1}") ;;
        python*)
            if [[ "${words[1]}" == -m && "${words[2]}" == embedllm ]]; then
                run=("${words[@]:0:3}")
            elif [[ "${words[1]##*/}" == train.py || "${words[1]##*/}" == evaluate.py ]]; then
                run=("${words[@]:0:2}")
            else
                return
            fi ;;
    esac
    rest="${line#"${line%%[![:space:]]*}"}"
    local word
    for word in "${run[@]}"; do
        rest="${rest#"$word"}"
        rest="${rest#"${rest%%[![:space:]]*}"}"
    done
    local choices current="${line##*[[:space:]]}"
    if [[ "${run[-1]}" == *.py ]]; then
        choices=$(COMP_LINE="program $rest" "${run[@]}" -sc query=bash 2> /dev/null)
    elif [[ "$rest" == *[[:space:]]* ]]; then
        local command="${rest%%[[:space:]]*}"
        choices=$(COMP_LINE="program ${rest#*[[:space:]]}" "${run[@]}" "$command" -sc query=bash \\
            2> /dev/null)
    else
        choices="@COMMANDS@"
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _embedllm_completion python python3 embedllm
"""


def bash_script(arguments: Sequence[str], commands: Iterable[str]) -> str | None:
    """Returns what bash evaluates, where a command line asks for it; None for any other.

    Args:
        arguments: The command line without the program's name.
        commands: Names of the commands.
    """
    is_asked = any(option in arguments for option in _OPTIONS) and "install=bash" in arguments
    return _BASH.replace("@COMMANDS@", " ".join(commands)) if is_asked else None
