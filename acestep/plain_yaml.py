"""YAML whose values stay the words that they are, so that they mean what they mean on the command line."""

from pathlib import Path
from typing import Any

from acestep.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"
_KEPT_TAGS = ("tag:yaml.org,2002:null", _MERGE)


def read_plain_yaml(file: Path, label: str) -> Any:
    """The content of a file, with texts (and null) for all single values.

    YAML itself would read `language: no` as a falsehood, `010` as eight and `1e-4` as a text.

    Args:
        label: what the file is called in an error, such as `--config recipe.yaml`.

    Raises:
        UserError: for a file that cannot be read, is no YAML, or has a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = [key.value for key, _ in node.value if key.tag != _MERGE]
            for key in keys:
                if keys.count(key) > 1:
                    raise UserError(f"{file}: {key!r} is there {keys.count(key)} times; expected once.")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(file.read_text(encoding="utf-8-sig"), Loader)
    except OSError as error:
        raise UserError(f"{label}: cannot be read as a YAML file: {error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{label}: cannot be read as a YAML file: {' '.join(str(error).split())}") from None
