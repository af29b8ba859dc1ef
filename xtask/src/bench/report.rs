//! What a reader gets: the table, the reasons for what is missing in it, and the same as JSON. Decides verdicts;
//! measures nothing.

use std::fmt::Write;

use serde_json::Value;
use serde_json::json;

use super::plan::Better;
use super::plan::Column;
use super::plan::Metric;
use super::plan::Outcome;
use super::plan::Side;
use super::plan::Target;
use super::stats::Summary;

const HEADINGS: [&str; 7] = [
    "scenario", "unit", "ours", "peer", "ratio", "target", "verdict",
];

const LEGEND: &str = "Numbers are medians, +- half the distance from the lowest to the highest run. A ratio above 1 is in \
                      favour of ours,\nwhichever direction is good. `void`: something was lost, repeated, missing or \
                      failed, so there is no number.\n";

/// The result of one tool's benchmark.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) tool: &'static str,
    /// Header lines as label and value.
    pub(super) facts: Vec<(String, String)>,
    pub(super) outcomes: Vec<Outcome>,
}

impl Report {
    /// Header, table and footnotes as plain text.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("benchmark of {}\n\n", self.tool);
        let width = self
            .facts
            .iter()
            .map(|(label, _)| label.len())
            .max()
            .unwrap_or_default();
        for (label, value) in &self.facts {
            let _infallible = writeln!(text, "{label:width$}  {value}");
        }
        text.push('\n');
        text += &table(&self.rows());
        let _infallible = write!(text, "\n{LEGEND}{}", self.footnotes());
        text
    }

    /// Header and all samples.
    pub(super) fn to_json(&self) -> Value {
        let facts: serde_json::Map<_, _> = self
            .facts
            .iter()
            .map(|(label, value)| (label.clone(), json!(value)))
            .collect();
        let cases: Vec<_> = self.outcomes.iter().map(case_json).collect();
        json!({ "tool": self.tool, "facts": facts, "cases": cases })
    }

    /// Titles of the cases in which our side failed its correctness gate.
    pub(super) fn void_of_ours(&self) -> impl Iterator<Item = String> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.ours.void.is_some())
            .map(|outcome| outcome.title.clone())
    }

    fn rows(&self) -> Vec<[String; 7]> {
        let mut rows = vec![HEADINGS.map(str::to_owned)];
        for outcome in &self.outcomes {
            rows.extend((0..outcome.metrics.len()).map(|metric| row(outcome, metric)));
        }
        rows
    }

    fn footnotes(&self) -> String {
        let mut text = String::new();
        for outcome in &self.outcomes {
            for (side, column) in columns(outcome) {
                let lines = column
                    .void
                    .iter()
                    .map(|why| format!("void: {why}"))
                    .chain(column.note.clone());
                for line in lines {
                    let _infallible =
                        writeln!(text, "  {} ({}): {line}", outcome.title, side.name());
                }
            }
        }
        if text.is_empty() {
            text
        } else {
            format!("\nnotes\n{text}")
        }
    }
}

fn columns(outcome: &Outcome) -> impl Iterator<Item = (Side, &Column)> {
    std::iter::once((Side::Ours, &outcome.ours))
        .chain(outcome.peer.iter().map(|column| (Side::Peer, column)))
}

fn row(outcome: &Outcome, index: usize) -> [String; 7] {
    let metric = &outcome.metrics[index];
    let ours = outcome.ours.summary(index);
    let peer = outcome
        .peer
        .as_ref()
        .and_then(|column| column.summary(index));
    let ratio = ours
        .zip(peer)
        .and_then(|(ours, peer)| ratio(metric, ours.median, peer.median));
    [
        format!("{}: {}", outcome.title, metric.name),
        metric.unit.to_owned(),
        cell(Some(&outcome.ours), index),
        cell(outcome.peer.as_ref(), index),
        ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}x")),
        target_text(metric),
        verdict(metric, outcome, ours, peer).to_owned(),
    ]
}

fn cell(column: Option<&Column>, metric: usize) -> String {
    let Some(column) = column else {
        return "-".into();
    };
    if column.void.is_some() {
        return "void".into();
    }
    column
        .summary(metric)
        .map_or_else(|| "-".into(), figure_with_spread)
}

/// A single run has no spread, which is not the same as a spread of nothing.
fn figure_with_spread(summary: Summary) -> String {
    let median = figure(summary.median);
    match summary.runs {
        1 => format!("{median} (1 run)"),
        _ => format!("{median} +-{:.0}%", summary.spread() * 100.0),
    }
}

/// How many times better ours is than the peer.
fn ratio(metric: &Metric, ours: f64, peer: f64) -> Option<f64> {
    let (better, worse) = match metric.better {
        Better::More => (ours, peer),
        Better::Less => (peer, ours),
    };
    (worse > 0.0 && better.is_finite()).then_some(better / worse)
}

fn target_text(metric: &Metric) -> String {
    match metric.target {
        Target::None => "-".into(),
        Target::Ratio(times) => format!(">= {times}x"),
        Target::Below(limit) => format!("< {limit} {}", metric.unit),
        Target::AtLeast(limit) => format!(">= {limit} {}", metric.unit),
        Target::Over(more) => format!("<= peer + {more} {}", metric.unit),
        Target::Complete => "no loss".into(),
    }
}

fn verdict(
    metric: &Metric,
    outcome: &Outcome,
    ours: Option<Summary>,
    peer: Option<Summary>,
) -> &'static str {
    if outcome.ours.void.is_some() {
        return "VOID";
    }
    let both = ours
        .zip(peer)
        .map(|(ours, peer)| (ours.median, peer.median));
    let passed = match metric.target {
        Target::None => return "-",
        Target::Ratio(_) | Target::Over(_) if outcome.peer.is_none() => return "no peer",
        Target::Ratio(times) => both
            .and_then(|(ours, peer)| ratio(metric, ours, peer))
            .map(|ratio| ratio >= times),
        Target::Over(more) => both.map(|(ours, peer)| ours <= peer + more),
        Target::Below(limit) => ours.map(|ours| ours.median < limit),
        Target::AtLeast(limit) => ours.map(|ours| ours.median >= limit),
        Target::Complete => ours.map(|_| true),
    };
    match passed {
        Some(true) => "pass",
        Some(false) => "MISSED",
        None => "no number",
    }
}

/// Three significant digits with a unit prefix: `0.58`, `302`, `18.5 k`, `1.66 M`.
fn figure(value: f64) -> String {
    let (scaled, prefix) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, " M"),
        size if size >= 999.5 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.1 || size == 0.0 => 2,
        _ => 4,
    };
    format!("{scaled:.decimals$}{prefix}")
}

/// Aligns the columns; the first row is the heading.
fn table(rows: &[[String; 7]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text += cells.join(" | ").trim_end();
        text.push('\n');
        if number == 0 {
            text += &widths.map(|width| "-".repeat(width)).join("-|-");
            text.push('\n');
        }
    }
    text
}

fn case_json(outcome: &Outcome) -> Value {
    let metrics: Vec<_> = outcome
        .metrics
        .iter()
        .enumerate()
        .map(|(index, _)| metric_json(outcome, index))
        .collect();
    let side = |column: &Column| json!({ "void": column.void, "note": column.note });
    json!({
        "scenario": outcome.scenario,
        "title": outcome.title,
        "ours": side(&outcome.ours),
        "peer": outcome.peer.as_ref().map(side),
        "metrics": metrics,
    })
}

fn metric_json(outcome: &Outcome, index: usize) -> Value {
    let metric = &outcome.metrics[index];
    let ours = outcome.ours.summary(index);
    let peer = outcome
        .peer
        .as_ref()
        .and_then(|column| column.summary(index));
    let ratio = ours
        .zip(peer)
        .and_then(|(ours, peer)| ratio(metric, ours.median, peer.median));
    json!({
        "name": metric.name,
        "unit": metric.unit,
        "ours": ours.map(|summary| summary.median),
        "peer": peer.map(|summary| summary.median),
        "ours_samples": outcome.ours.samples(index),
        "peer_samples": outcome.peer.as_ref().map(|column| column.samples(index)),
        "ratio": ratio,
        "target": target_text(metric),
        "verdict": verdict(metric, outcome, ours, peer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[f64]) -> Column {
        Column {
            readings: values.iter().map(|value| vec![Some(*value)]).collect(),
            ..Column::default()
        }
    }

    fn outcome(target: Target, better: Better, ours: Column, peer: Option<Column>) -> Outcome {
        let metrics = vec![Metric::new("speed", "ms", better).target(target)];
        Outcome {
            scenario: "S1",
            title: "S1 fan-out".into(),
            metrics,
            ours,
            peer,
        }
    }

    fn void() -> Column {
        Column {
            void: Some("seq 3 after 1".into()),
            ..column(&[1.0])
        }
    }

    #[test]
    fn figures_keep_three_digits() {
        let shown: Vec<_> = [
            0.0,
            0.0042,
            0.58,
            9.996,
            302.4,
            999.6,
            18_512.0,
            1_655_800.0,
        ]
        .map(figure)
        .into();
        assert_eq!(
            shown,
            [
                "0.00", "0.0042", "0.58", "10.0", "302", "1.00 k", "18.5 k", "1.66 M"
            ]
        );
    }

    #[test]
    fn a_ratio_above_one_always_favours_ours() {
        let more = outcome(
            Target::Ratio(5.0),
            Better::More,
            column(&[60.0]),
            Some(column(&[10.0])),
        );
        let less = outcome(
            Target::Ratio(5.0),
            Better::Less,
            column(&[10.0]),
            Some(column(&[40.0])),
        );
        assert_eq!(row(&more, 0)[4..], ["6.00x", ">= 5x", "pass"]);
        assert_eq!(row(&less, 0)[4..], ["4.00x", ">= 5x", "MISSED"]);
    }

    #[test]
    fn limits_are_judged_without_a_peer_and_ratios_are_not() {
        let limit = outcome(Target::Below(1.0), Better::Less, column(&[0.5, 0.7]), None);
        let ratio = outcome(Target::Ratio(5.0), Better::More, column(&[0.5]), None);
        assert_eq!(
            row(&limit, 0),
            [
                "S1 fan-out: speed",
                "ms",
                "0.60 +-17%",
                "-",
                "-",
                "< 1 ms",
                "pass"
            ]
        );
        assert_eq!(row(&ratio, 0)[6], "no peer");
    }

    #[test]
    fn a_least_value_is_reached_or_missed() {
        let judged = |ours| {
            let target = Target::AtLeast(50.0);
            let outcome = outcome(target, Better::More, column(&[ours]), None);
            row(&outcome, 0)[5..].to_vec()
        };
        assert_eq!(judged(50.0), [">= 50 ms", "pass"]);
        assert_eq!(judged(49.9)[1], "MISSED");
    }

    #[test]
    fn a_floor_may_be_exceeded_by_so_much_and_no_more() {
        let floor = || Some(column(&[40.0]));
        let judged = |ours, peer| {
            let outcome = outcome(Target::Over(5.0), Better::Less, column(&[ours]), peer);
            row(&outcome, 0)[5..].to_vec()
        };
        assert_eq!(judged(45.0, floor()), ["<= peer + 5 ms", "pass"]);
        assert_eq!(judged(45.1, floor())[1], "MISSED");
        assert_eq!(judged(30.0, floor())[1], "pass");
        assert_eq!(judged(45.0, Some(void()))[1], "no number");
        assert_eq!(judged(45.0, None)[1], "no peer");
    }

    #[test]
    fn a_void_column_shows_no_number_and_its_reason_below() {
        let outcome = outcome(
            Target::Below(9.0),
            Better::Less,
            void(),
            Some(column(&[2.0])),
        );
        assert_eq!(
            row(&outcome, 0)[2..],
            ["void", "2.00 (1 run)", "-", "< 9 ms", "VOID"]
        );
        let report = Report {
            tool: "tool",
            facts: vec![],
            outcomes: vec![outcome],
        };
        assert!(
            report
                .to_text()
                .ends_with("\nnotes\n  S1 fan-out (ours): void: seq 3 after 1\n")
        );
        assert_eq!(report.void_of_ours().collect::<Vec<_>>(), ["S1 fan-out"]);
        assert_eq!(
            report.to_json()["cases"][0]["metrics"][0]["ours"],
            Value::Null
        );
    }

    #[test]
    fn a_void_peer_is_no_failure_of_ours() {
        let outcome = outcome(
            Target::Ratio(5.0),
            Better::More,
            column(&[2.0]),
            Some(void()),
        );
        assert_eq!(
            row(&outcome, 0)[2..],
            ["2.00 (1 run)", "void", "-", ">= 5x", "no number"]
        );
        let report = Report {
            tool: "tool",
            facts: vec![],
            outcomes: vec![outcome],
        };
        assert_eq!(report.void_of_ours().count(), 0);
    }

    #[test]
    fn what_was_not_measured_neither_passes_nor_misses() {
        for target in [Target::Complete, Target::Below(1.0)] {
            let outcome = outcome(target, Better::Less, Column::default(), None);
            assert_eq!(row(&outcome, 0)[6], "no number");
        }
    }

    #[test]
    fn the_columns_line_up() {
        let report = Report {
            tool: "tool",
            facts: vec![
                ("date".into(), "today".into()),
                ("kernel".into(), "6".into()),
            ],
            outcomes: vec![outcome(
                Target::Complete,
                Better::More,
                column(&[1.0]),
                None,
            )],
        };
        let expected = "benchmark of tool\n\ndate    today\nkernel  6\n\n\
                        scenario          | unit | ours         | peer | ratio | target  | verdict\n\
                        ------------------|------|--------------|------|-------|---------|--------\n\
                        S1 fan-out: speed | ms   | 1.00 (1 run) | -    | -     | no loss | pass\n";
        assert!(
            report.to_text().starts_with(expected),
            "{}",
            report.to_text()
        );
    }
}
