"""The page of tables and plots, made of raw samples: ``python bench/report.py bench/results/….json docs``."""

import html
import json
import pathlib
import statistics
import sys

from samples import Samples

OURS = "lading"
NO_ENGINES = ("floor", "client-alone")
COLUMNS = (
    "lading",
    "lading-compressed",
    "docker-containerd-store",
    "docker-same-runc",
    "docker-classic",
    "containerd-overlayfs",
    "containerd-erofs",
    "podman",
    "line rate",
    *NO_ENGINES,
)


def write(results: pathlib.Path, docs: pathlib.Path) -> None:
    """Make ``benchmark-results.md`` and its plot in ``docs``."""
    record = json.loads(results.read_text())
    samples = Samples(record["samples"])
    (docs / "benchmark-results.svg").write_text(_plot(samples))
    (docs / "benchmark-results.md").write_text(_page(record, samples, results.name))


def _page(record: dict[str, object], samples: Samples, name: str) -> str:
    engines = [c for c in COLUMNS if any(c in by for by in samples.values.values())]
    calibration = [float(value) for value in record["calibration"]] or [0.0]  # type: ignore[union-attr]
    lines = [
        "# Benchmark results",
        "",
        (
            f"Made by `make bench` from `bench/results/{name}`: commit `{str(record['commit'])[:12]}`, Linux {record['kernel']}, "
            f"{record['cores']} cores, load {record['load']}. Before each pair 64 MiB were hashed in "
            f"{min(calibration):.3f} to {max(calibration):.3f} s; a free core needs 0.03. How to read it: "
            "[benchmarks.md](benchmarks.md)."
        ),
        "",
        "Medians; in brackets the median of the paired ratios of Lading to that peer (below 1: Lading needs less); the last column is",
        "Lading's ratio to the best peer of the row. Seconds unless said. No engines are *floor*,",
        "the C calls of a pull alone, and *client-alone*, the docker client with a server that says yes at once.",
        "",
        "![Pull to ready](benchmark-results.svg)",
        "",
        f"| | {' | '.join(engines)} | to the best | runs |",
        f"|---|{'---|' * len(engines)}---|---|",
    ]
    for operation, by_engine in samples.values.items():
        cells: list[str] = []
        ratios: list[float] = []
        for engine in engines:
            median = samples.median(operation, engine)
            ratio = samples.ratio(operation, OURS, engine) if engine != OURS else None
            cells.append(
                "" if median is None else _number(median) + (f" ({ratio:.2f})" if ratio is not None else "")
            )
            ratios += [ratio] if ratio is not None and engine not in NO_ENGINES else []
        best = f"{max(ratios):.2f}" if ratios else ""
        count = max(len(values) for values in by_engine.values())
        lines.append(f"| {operation} | {' | '.join(cells)} | {best} | {count} |")
    if record.get("failures"):
        lines += ["", "What an engine could not do:", ""]
        lines += [f"* {str(words)[:200]}" for words in record["failures"]]  # type: ignore[attr-defined]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _plot(samples: Samples) -> str:
    """Every sample of each pull as a dot, the medians as bars."""
    pulls = [
        name for name in samples.values if name.startswith("pull ") and name.removeprefix("pull ") in _IMAGES
    ]
    engines = [c for c in COLUMNS if any(c in samples.values[name] for name in pulls)]
    width, row, left = 900, 16, 190
    height = sum((len(engines) + 2) * row for _ in pulls) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    y = 14
    for name in pulls:
        longest = max((max(values) for values in samples.values[name].values()), default=1.0)
        scale = (width - left - 60) / longest
        parts.append(f'<text x="4" y="{y}" font-weight="bold">{html.escape(name)}, seconds</text>')
        y += row
        for engine in engines:
            values = samples.values[name].get(engine)
            if not values:
                continue
            median = statistics.median(values)
            color = "#2a6f97" if engine == OURS else "#b8c4cc"
            parts.append(f'<text x="4" y="{y}">{html.escape(engine)}</text>')
            parts.append(
                f'<rect x="{left}" y="{y - 10}" width="{median * scale:.1f}" height="11" fill="{color}"/>'
            )
            parts += [f'<circle cx="{left + v * scale:.1f}" cy="{y - 4}" r="2" fill="#333"/>' for v in values]
            parts.append(f'<text x="{left + longest * scale + 6:.1f}" y="{y}">{median:.2f}</text>')
            y += row
        y += row
    return "\n".join([*parts, "</svg>"]) + "\n"


_IMAGES = ("one-file", "small-files", "torch-like", "eight-layers")

if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
