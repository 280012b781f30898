"""Files that give each gate its weight in the depth penalty."""

import csv
from pathlib import Path

from layer_folding import records
from layer_folding.errors import InputError
from layer_folding.records import NonNegative


def read_gate_weights(path: Path) -> dict[str, float]:
    """The weight of each gate by name: a JSON object, or a CSV file with the columns gate and weight.

    Raises InputError for a file that holds something else.
    """
    try:
        content = records.parse_json(path.read_text(encoding="utf-8")) if path.suffix == ".json" else _from_csv(path)
        weights = records.decode(dict[str, NonNegative], content)
        if not weights:
            raise ValueError("no gate in it")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--gate-weights {path}: not as it should be ({error}); give a CSV file with the columns gate,weight, or a "
            "JSON object, with numbers of 0 or more"
        ) from error
    except OSError as error:
        raise InputError(f"--gate-weights {path}: {error.strerror}; give a CSV or JSON file") from error
    return weights


def _from_csv(path: Path) -> dict[str, float]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row["gate"]: float(row["weight"]) for row in csv.DictReader(file)}
