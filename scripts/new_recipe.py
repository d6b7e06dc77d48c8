"""Write a recipe for your songs and your GPU, or look at those that are shipped.

    python scripts/new_recipe.py --dataset data --output my-recipe.yaml
    python scripts/new_recipe.py --dataset data --output my-recipe.yaml --gpu_memory 12GB --yes
    python scripts/new_recipe.py --list
    python scripts/new_recipe.py --show low_vram_8gb
    python scripts/new_recipe.py --copy album_16gb --output my-recipe.yaml
    python scripts/new_recipe.py --export my-lora --output my-recipe.yaml

--export writes down what a finished run was made with, without what belongs to its machine.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options


@dataclass
class NewRecipeOptions:
    dataset: str | None = option(None, "folder that prepare_dataset.py wrote, or Hub id")
    output: str = option("recipe.yaml", "file to write; one that is there is never replaced")
    model: str = option("ACE-Step/acestep-v15-base", "folder or Hub id of the model to train, for the launch line")
    gpu_memory: str | None = option(None, "of each GPU, such as 12GB; default: that of the GPU here; 0 for none")
    num_gpus: int | None = option(None, "GPUs to train on; default: those that are here")
    rank: int = option(64, "rank of the adapter")
    yes: bool = option(False, "ask nothing, take the defaults")
    list: bool = option(False, "name the shipped recipes")
    show: str | None = option(None, "print a shipped recipe")
    copy: str | None = option(None, "write a shipped recipe to --output")
    export: str | None = option(None, "folder of a finished run whose options become a recipe at --output")


def parse_memory(text: str) -> int:
    """Bytes of "12GB" or "11.5GiB"; GB and GiB are one here, as cards are sold; "0" is no GPU."""
    from acestep.train.memory_fit import parse_size

    if text.strip() == "0":
        return 0
    try:
        return parse_size(text)
    except UserError:
        raise UserError(f"--gpu_memory {text}: expected a size such as 12GB or 11.5GiB, or 0.") from None


def ask(question: str, default: str, quiet: bool) -> str:
    """The user's answer; the default when there is nobody to ask."""
    if quiet or not sys.stdin.isatty():
        return default
    return input(f"{question} [{default}]: ").strip() or default


def main() -> None:
    options = parse_options(NewRecipeOptions, __doc__)
    chosen = [name for name in ("dataset", "list", "show", "copy", "export") if getattr(options, name)]
    if len(chosen) != 1:
        raise UserError("choose one of --dataset, --list, --show, --copy, --export.")

    from acestep.train import recipes

    output = Path(options.output)
    if options.list:
        for name, path in recipes.shipped().items():
            print(f"{name:18} {recipes.purpose(path)}")
    elif options.show:
        print(recipes.find(options.show).read_text(encoding="utf-8"), end="")
    elif options.copy:
        print(recipes.write_new(output, recipes.find(options.copy).read_text(encoding="utf-8")))
    elif options.export:
        folder = Path(options.export)
        text = recipes.recipe_text(recipes.from_run(folder), [f"What {folder.resolve().name} was trained with."])
        print(recipes.write_new(output, text))
    else:
        new_recipe(options, output)


def new_recipe(options: NewRecipeOptions, output: Path) -> None:
    from acestep.quiet import quiet_libraries

    quiet_libraries()
    from acestep.train import recipes

    if output.exists():
        raise UserError(f"{output}: is there already and is not replaced. Choose another --output.")
    situation = recipes.look(options.dataset, options.num_gpus)
    print(situation.describe())
    here = "0" if situation.gpu_bytes is None else f"{situation.gpu_bytes / 2**30:.1f}GiB"
    memory = parse_memory(options.gpu_memory or ask("memory of the GPU (0: train on the CPU)", here, options.yes))
    rank = ask("rank of the adapter", str(options.rank), options.yes)
    if not rank.isdigit() or int(rank) < 1:
        raise UserError(f"--rank {rank}: expected a whole number of at least 1.")
    epochs = ask("passes over the songs", str(recipes.advised_epochs(situation.songs)), options.yes)
    if not epochs.isdigit() or int(epochs) < 1:
        raise UserError(f"passes over the songs: {epochs}; expected a whole number of at least 1.")
    text, launch = recipes.new_recipe(
        situation.on(memory or None), int(rank), int(epochs), options.model, options.dataset, output
    )
    print(f"{recipes.write_new(output, text)}:\n\n{text}\nstart it with:\n\n{launch}")


if __name__ == "__main__":
    run_script(main)
