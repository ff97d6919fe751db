"""What `lotlip track` says it did."""

from dataclasses import dataclass, field

from lotlip.tracking.redact import hide_in_text


@dataclass
class TrackSummary:
    """What `track` did, as names of runs.

    `created` are new, `adopted` were live runs of a training, `updated` lacked something, and `unchanged`
    were complete before. `page` is the path of MLflow's page that compares the methods.
    """

    uri: str
    experiment: str
    state: str
    parent_run_id: str = ""
    page: str = ""
    created: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        where = f"{hide_in_text(self.uri)}, experiment {self.experiment}"
        lines = [f"pipeline state {self.state[:12]} in {where}:"]
        for verb in ("created", "adopted", "updated", "unchanged"):
            names = getattr(self, verb)
            if names:
                lines.append(f"  {verb}: {', '.join(names)}")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        server = hide_in_text(self.uri) if self.uri.startswith("http") else "`make ui`, then ..."
        return "\n".join([*lines, f"  the methods side by side: {server}{self.page}"])
