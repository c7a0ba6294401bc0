"""Values by operation and engine, and ratios of what was measured in pairs."""

import statistics


class Samples:
    """What was measured: operation to engine to values, in the order of the runs."""

    def __init__(self, values: dict[str, dict[str, list[float]]] | None = None) -> None:
        self.values: dict[str, dict[str, list[float]]] = values or {}

    def add(self, operation: str, engine: str, value: float) -> None:
        """Note a value."""
        self.values.setdefault(operation, {}).setdefault(engine, []).append(value)

    def median(self, operation: str, engine: str) -> float | None:
        """The median, if anything was measured."""
        values = self.values.get(operation, {}).get(engine)
        return statistics.median(values) if values else None

    def ratio(self, operation: str, ours: str, peer: str) -> float | None:
        """The median of the ratios of ours to a peer's, run by run; of the medians where one failed and nothing is a pair."""
        mine, theirs = (self.values.get(operation, {}).get(name, []) for name in (ours, peer))
        if len(mine) != len(theirs):
            mine, theirs = ([statistics.median(each)] if each else [] for each in (mine, theirs))
        ratios = [a / b for a, b in zip(mine, theirs, strict=False) if b]
        return statistics.median(ratios) if ratios else None

    def table(self, ours: str) -> str:
        """Everything, for a terminal."""
        lines = [f"{'operation':44} {'engine':26} {'median':>10} {'min':>10} {'max':>10} {'lading/peer':>12}"]
        for operation, by_engine in self.values.items():
            for engine, values in by_engine.items():
                ratio = self.ratio(operation, ours, engine) if engine != ours else None
                shown = "" if ratio is None else f"{ratio:.2f}"
                lines.append(
                    f"{operation:44} {engine:26} {statistics.median(values):10.3f} {min(values):10.3f} {max(values):10.3f} {shown:>12}"
                )
        return "\n".join(lines)
