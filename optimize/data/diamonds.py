"""Diamonds with their prices, a table of the package `plotnine`: 53,917 of its 53,940, those with
possible measures (23 are 0 mm long or some centimetres high).

Six measures (carat, depth, table, and length, width and height in mm) and three grades (cut, colour
and clarity, from the worst, 0, up) to the natural logarithm of the price in dollars.
"""

from pathlib import Path

import torch

from optimize.data.tables import read_rows
from optimize.data.tensors import TensorData, data_set
from optimize.errors import DataError
from optimize.utils.packages import package_folder

MEASURES = ("carat", "depth", "table", "x", "y", "z")
GRADES = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": ["J", "I", "H", "G", "F", "E", "D"],
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}


def load(
    path: str | None = None,
    limit: int = 0,
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
) -> TensorData:
    """Inputs `measures` float32 `[N, 6]` and `grades` int64 `[N, 3]`; target `log_price` `[N]`.

    Args:
        path: the CSV; the package's by default.
        limit: number of diamonds to keep, drawn at random; 0 keeps all.
        test, validation: shares of the diamonds in these splits.
        seed: of the splits.

    Raises:
        DataError: no such file, or not these columns.
    """
    if path is None:
        package = package_folder("plotnine")
        if package is None:
            raise DataError(
                "no diamonds here: `pip install --no-deps plotnine==0.15.9` brings them"
            )
        path = str(package / "data" / "diamonds.csv")
    place = Path(path).expanduser()
    rows = read_rows(place, None)
    try:
        measures = torch.tensor([[float(r.fields[name]) for name in MEASURES] for r in rows])
        grades = torch.tensor(
            [[names.index(r.fields[key]) for key, names in GRADES.items()] for r in rows]
        )
        price = torch.tensor([float(r.fields["price"]) for r in rows])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{place} is not the diamonds' CSV: {error!r}") from error
    sizes = measures[:, 3:]
    possible = ((sizes > 0) & (sizes < 20)).all(1).nonzero().flatten()
    order = possible[torch.randperm(len(possible), generator=torch.Generator().manual_seed(seed))]
    kept = order[:limit] if limit else order
    arrays = {"measures": measures, "grades": grades, "log_price": price.log()}
    return data_set(
        {"": {name: array[kept] for name, array in arrays.items()}},
        name="diamonds",
        source=f"file {place}",
        targets=["log_price"],
        test=test,
        validation=validation,
        seed=seed,
    )
