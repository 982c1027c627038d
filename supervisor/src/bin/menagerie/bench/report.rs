//! What was measured, for people and for programs.

use serde::Serialize;

/// The version of the JSON's shape.
const SCHEMA: u32 = 2;

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Counts up when a field changes its meaning.
    pub(crate) schema: u32,
    pub(crate) version: &'static str,
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    /// What was left out, and why.
    pub(crate) left_out: Vec<String>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: u32,
    pub(crate) kernel: String,
    /// Whether the program was built with optimisation.
    pub(crate) optimised: bool,
}

impl Machine {
    fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()))
            .unwrap_or_default();
        Self {
            cpu,
            cpus: menagerie_protocol::lane::wait::cpus().get(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// What a figure is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Less is better.
    Nanoseconds,
    /// More is better.
    CallsPerSecond,
    /// Less is better.
    Bytes,
    /// A second; less is better.
    SwitchesPerSecond,
}

impl Unit {
    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::CallsPerSecond)
    }

    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value >= 1e9 => format!("{:.2} s", value / 1e9),
            Self::Nanoseconds if value >= 1e6 => format!("{:.2} ms", value / 1e6),
            Self::Nanoseconds if value >= 1e3 => format!("{:.2} µs", value / 1e3),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::CallsPerSecond => format!("{:.2} M/s", value / 1e6),
            Self::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Self::SwitchesPerSecond => format!("{value:.1} /s"),
        }
    }
}

/// One figure beside its floor.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Group and name, by which `--only` finds it.
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// The median of the turns.
    pub(crate) ours: f64,
    /// What it is compared with.
    pub(crate) floor_name: String,
    pub(crate) floor: f64,
    /// The median of the turns' own ratios: where the machine moves its CPUs
    /// about within a run, ours and the floor of one turn belong together.
    pub(crate) ratio: f64,
    /// The least and the greatest of them.
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    /// What the ratio may be, where the design sets a limit.
    pub(crate) limit: Option<f64>,
}

impl Row {
    /// Whether it keeps to its limit; `None` where there is none.
    pub(crate) fn holds(&self) -> Option<bool> {
        let limit = self.limit?;
        Some(if self.unit.more_is_better() { self.ratio >= limit } else { self.ratio <= limit })
    }
}

/// What one turn of a row has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) ours: f64,
    pub(super) floor: f64,
}

/// Puts a row together from its turns.
pub(super) fn row(
    group: &str,
    name: &str,
    unit: Unit,
    floor_name: &str,
    limit: Option<f64>,
    turns: &[Turn],
) -> Row {
    let of = |pick: fn(&Turn) -> f64| turns.iter().map(pick).collect::<Vec<f64>>();
    let ratios = of(|turn| turn.ours / turn.floor);
    Row {
        group: group.to_owned(),
        name: name.to_owned(),
        unit,
        ours: median(of(|turn| turn.ours)),
        floor_name: floor_name.to_owned(),
        floor: median(of(|turn| turn.floor)),
        ratio: median(ratios.clone()),
        ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratio_max: ratios.iter().copied().fold(0.0, f64::max),
        limit,
    }
}

/// The median; not a number for none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Report {
    pub(super) fn new(quick: bool) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            quick,
            machine: Machine::this(),
            rows: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_takes_the_median_of_the_turns_ratios() {
        let turn = |ours, floor| Turn { ours, floor };
        let turns = [turn(2.0, 1.0), turn(30.0, 10.0), turn(9.0, 9.0)];
        let row = row("g", "n", Unit::Nanoseconds, "floor", Some(2.0), &turns);
        assert!((row.ratio - 2.0).abs() < 1e-9);
        assert!((row.ratio_min - 1.0).abs() < 1e-9);
        assert!((row.ratio_max - 3.0).abs() < 1e-9);
        assert_eq!(row.holds(), Some(true));
        let rates =
            super::row("g", "n", Unit::CallsPerSecond, "2 M/s", Some(1.0), &[turn(1.0, 2.0)]);
        assert_eq!(rates.holds(), Some(false));
    }

    #[test]
    fn units_show_what_people_read() {
        assert_eq!(Unit::Nanoseconds.show(123.4), "123 ns");
        assert_eq!(Unit::Nanoseconds.show(1234.0), "1.23 µs");
        assert_eq!(Unit::Nanoseconds.show(12_340_000.0), "12.34 ms");
        assert_eq!(Unit::CallsPerSecond.show(2_500_000.0), "2.50 M/s");
    }
}
