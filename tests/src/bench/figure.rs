//! A measured figure: its samples, what it is held against, its JSON file and its line in the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// Values of one measurement, in the unit of the figure.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Values in any order.
    #[must_use]
    pub fn new(mut values: Vec<f64>) -> Samples {
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one; of an even number the lower of the two in the middle. Zero without samples.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.nearest_rank(50)
    }

    #[must_use]
    pub fn p95(&self) -> f64 {
        self.nearest_rank(95)
    }

    #[must_use]
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or_default()
    }

    #[must_use]
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    fn nearest_rank(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

/// What a figure has to reach. Where it has both a limit and a peer, both count; of a floor and a peer one is enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target {
    /// The figure is at most this, in its own unit.
    pub limit: Option<f64>,
    /// The figure is at least this, in its own unit, or compares with its peer: what a slow machine takes away from both
    /// is no fault of fleet's.
    pub floor: Option<f64>,
    /// The same work done by the parts below, in the unit of the figure, and the largest or smallest ratio to it.
    pub peer: Option<(f64, Ratio)>,
}

#[derive(Clone, Copy, Debug)]
pub enum Ratio {
    AtMost(f64),
    AtLeast(f64),
}

/// One line of the table and one JSON file.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub median: f64,
    pub p95: f64,
    pub samples: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// In words.
    pub target: String,
    pub ok: bool,
    /// What the figure is made of, for whoever wants to know where the time goes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<&'static str, f64>,
}

impl Figure {
    /// The figure of `samples`; `judged` is the value that has to reach the target, mostly the median.
    #[must_use]
    pub fn new(
        name: &'static str,
        unit: &'static str,
        samples: &Samples,
        judged: f64,
        target: Target,
    ) -> Figure {
        let within = target.limit.is_none_or(|limit| judged <= limit);
        let ratio = target.peer.map(|(peer, _)| judged / peer);
        let compares = match (target.peer, ratio) {
            (Some((_, Ratio::AtMost(most))), Some(ratio)) => Some(ratio <= most),
            (Some((_, Ratio::AtLeast(least))), Some(ratio)) => Some(ratio >= least),
            _ => None,
        };
        let reaches = match target.floor.map(|floor| judged >= floor) {
            Some(high_enough) => high_enough || compares == Some(true),
            None => compares.unwrap_or(true),
        };
        Figure {
            name,
            unit,
            median: round(samples.median()),
            p95: round(samples.p95()),
            samples: samples.len(),
            limit: target.limit.map(round),
            floor: target.floor.map(round),
            peer: target.peer.map(|(peer, _)| round(peer)),
            ratio: ratio.map(round),
            target: in_words(target, unit),
            ok: within && reaches && !samples.is_empty(),
            parts: BTreeMap::new(),
        }
    }

    /// Adds something that explains the figure.
    #[must_use]
    pub fn part(mut self, name: &'static str, value: f64) -> Figure {
        self.parts.insert(name, round(value));
        self
    }
}

fn in_words(target: Target, unit: &str) -> String {
    let mut words = Vec::new();
    if let Some(limit) = target.limit {
        words.push(format!("at most {} {unit}", short(limit)));
    }
    let peer = target.peer.map(|(_, ratio)| match ratio {
        Ratio::AtMost(ratio) => format!("at most {} x the peer", short(ratio)),
        Ratio::AtLeast(ratio) => format!("at least {} x the peer", short(ratio)),
    });
    match (target.floor, peer) {
        (Some(floor), Some(peer)) => words.push(format!("at least {} {unit} or {peer}", short(floor))),
        (Some(floor), None) => words.push(format!("at least {} {unit}", short(floor))),
        (None, peer) => words.extend(peer),
    }
    if words.is_empty() { "none".to_owned() } else { words.join(" and ") }
}

/// Four digits: more are noise in every measurement here.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A number as people read it: about three digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        size if size >= 0.000_1 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// Where the JSON files go.
pub(super) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench")
}

/// Writes `target/bench/NAME.json` and gives its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(figure: &Figure) -> anyhow::Result<PathBuf> {
    let directory = directory();
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join(format!("{}.json", figure.name));
    let mut text = serde_json::to_string_pretty(figure)?;
    text.push('\n');
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The figures as a table in Markdown, as `docs/development/benchmarks.md` has it.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let header = ["figure", "median", "p95", "samples", "peer", "ratio", "target", "ok"].map(str::to_owned);
    let mut rows = vec![header];
    for figure in figures {
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        let with_unit = |value: f64| format!("{} {}", short(value), figure.unit);
        rows.push([
            format!("`{}`", figure.name),
            with_unit(figure.median),
            with_unit(figure.p95),
            figure.samples.to_string(),
            figure.peer.map_or_else(|| "-".to_owned(), with_unit),
            or_dash(figure.ratio),
            figure.target.clone(),
            if figure.ok { "yes" } else { "**no**" }.to_owned(),
        ]);
    }
    let widths: Vec<usize> =
        (0..8).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 8]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule =
        format!("|{}|\n", widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("|"));
    let mut out = line(&rows[0]) + &rule;
    out.extend(rows[1..].iter().map(line));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples::new(values.to_vec())
    }

    #[test]
    fn median_and_p95_are_values_that_were_measured() {
        let hundred = Samples::new((1..=100).rev().map(f64::from).collect());
        assert_eq!((hundred.median(), hundred.p95(), hundred.max()), (50.0, 95.0, 100.0));
        assert_eq!((samples(&[7.0]).median(), samples(&[7.0]).p95()), (7.0, 7.0));
        assert_eq!(samples(&[]).median(), 0.0);
    }

    #[test]
    fn a_figure_with_limit_and_peer_has_to_reach_both() {
        let target =
            |peer| Target { limit: Some(60.0), peer: Some((peer, Ratio::AtMost(3.0))), ..Target::default() };
        let figure = |value: f64, peer| Figure::new("x", "ms", &samples(&[value]), value, target(peer));
        assert!(figure(30.0, 10.0).ok);
        assert!(!figure(30.1, 10.0).ok);
        assert!(!figure(61.0, 100.0).ok);
        assert_eq!(figure(30.0, 10.0).target, "at most 60 ms and at most 3 x the peer");
    }

    #[test]
    fn a_rate_has_to_reach_a_part_of_its_peer() {
        let target = Target { peer: Some((100.0, Ratio::AtLeast(0.7))), ..Target::default() };
        assert!(Figure::new("x", "units/s", &samples(&[70.0]), 70.0, target).ok);
        assert!(!Figure::new("x", "units/s", &samples(&[69.0]), 69.0, target).ok);
        assert!(!Figure::new("x", "units/s", &samples(&[]), 100.0, target).ok, "nothing measured");
    }

    #[test]
    fn a_floor_is_reached_by_itself_or_by_the_peer() {
        let target = |peer| Target {
            floor: Some(5000.0),
            peer: Some((peer, Ratio::AtLeast(0.8))),
            ..Target::default()
        };
        let figure = |value: f64, peer| Figure::new("x", "puts/s", &samples(&[value]), value, target(peer));
        assert!(figure(5000.0, 100_000.0).ok, "fast enough, whatever the disk could do");
        assert!(figure(80.0, 100.0).ok, "as fast as a slow disk lets it be");
        assert!(!figure(4999.0, 100_000.0).ok);
        assert_eq!(figure(80.0, 100.0).target, "at least 5000 puts/s or at least 0.80 x the peer");
        let alone = Target { floor: Some(5000.0), ..Target::default() };
        assert!(!Figure::new("x", "puts/s", &samples(&[4999.0]), 4999.0, alone).ok);
    }

    #[test]
    fn the_table_has_a_line_per_figure() {
        let target = Target { limit: Some(2.0), ..Target::default() };
        let figure = Figure::new("plan_noop", "ms", &samples(&[0.0123]), 0.0123, target);
        let table = table(&[figure]);
        assert_eq!(table.lines().count(), 3);
        let line = table.lines().last().unwrap();
        assert!(line.starts_with("| `plan_noop` | 0.0123 ms |") && line.ends_with("| yes |"), "{line}");
    }
}
