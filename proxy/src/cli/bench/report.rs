//! What the turns showed, for people and for programs.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Bench, collection::Own, load::Turn, way::Via};

/// The percentiles that are told.
const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// All turns of all ways.
#[derive(Debug)]
pub(super) struct Report {
    conditions: String,
    ways: Vec<(String, Vec<Turn>)>,
}

// === impl Report ===

impl Report {
    pub(super) fn new(bench: &Bench, own: &Own, vias: &[Via]) -> Self {
        let topology = own.router.topology().snapshot();
        let version = topology.nodes().iter().find_map(|node| node.version);
        let version = version.map_or_else(|| "of unknown version".to_owned(), |version| version.to_string());
        let load = match bench.rate {
            Some(rate) => format!("{rate} requests per second, at most {} under way", bench.concurrency),
            None => format!("{} requests under way", bench.concurrency),
        };
        let conditions = format!(
            "{}; {load}; {} turns of {:?} each, interleaved; {} nodes, Qdrant {version}",
            own.work.describe(),
            bench.rounds,
            bench.duration,
            topology.nodes().len(),
        );
        Self { conditions, ways: vias.iter().map(|via| (via.name.clone(), Vec::new())).collect() }
    }

    pub(super) fn add(&mut self, way: usize, turn: Turn) {
        if let Some((_, turns)) = self.ways.get_mut(way) {
            turns.push(turn);
        }
    }

    /// How many requests failed.
    pub(super) fn errors(&self) -> u64 {
        self.ways.iter().flat_map(|(_, turns)| turns).map(Turn::failed).sum()
    }

    pub(super) fn conditions(&self) -> &str {
        &self.conditions
    }

    /// The latencies of each way that had an answer.
    pub(super) fn latencies(&self) -> Vec<(&str, Histogram<u64>)> {
        let all = self.ways.iter().map(|(name, turns)| (name.as_str(), Turn::sum(turns).latencies));
        all.filter(|(_, latencies)| !latencies.is_empty()).collect()
    }

    pub(super) fn text(&self) -> String {
        let mut out = format!("{}\n\n", self.conditions);
        let width = self.ways.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(4);
        // Writing to a string cannot fail.
        let _ = write!(out, "{:<width$}{:>11}", "", "requests/s");
        for (name, _) in PERCENTILES {
            let _ = write!(out, "{name:>10}");
        }
        let _ = writeln!(out, "{:>8}{:>10}{:>9}{:>9}", "errors", "RPCs/req", "rate", "p50");
        for (name, turns) in &self.ways {
            let sum = Turn::sum(turns);
            let _ = write!(out, "{name:<width$}{:>11.0}", median(turns.iter().map(Turn::rate)));
            for (_, percentile) in PERCENTILES {
                let latency = sum.latencies.value_at_percentile(percentile);
                let _ = write!(out, "{:>10}", milliseconds(latency, &sum));
            }
            let mark = if sum.failed() > 0 { "!" } else { "" };
            let rpcs = per_request(&sum).map_or_else(|| "-".to_owned(), |rpcs| format!("{rpcs:.2}"));
            let (rate, p50) = self.ratios(turns);
            let _ = writeln!(
                out,
                "{:>8}{rpcs:>10}{:>9}{:>9}",
                format!("{mark}{}", sum.failed()),
                format!("×{rate:.2}"),
                format!("×{p50:.2}")
            );
        }
        let first = self.ways.first().map_or("", |(name, _)| name);
        let _ = writeln!(
            out,
            "\nLatencies in ms. RPCs are those between nodes. The ratios to `{first}` are medians of the rounds."
        );
        for (name, turns) in &self.ways {
            let sum = Turn::sum(turns);
            for (error, count) in sum.errors.iter().take(3) {
                let _ = writeln!(out, "! {name}: {count} of {} requests failed: {error}", sum.requests());
            }
        }
        out
    }

    pub(super) fn json(&self) -> Value {
        let ways = self.ways.iter().map(|(name, turns)| {
            let sum = Turn::sum(turns);
            let (rate, p50) = self.ratios(turns);
            json!({
                "way": name,
                "rate": median(turns.iter().map(Turn::rate)),
                "latency_us": latencies(&sum),
                "requests": sum.requests(),
                "errors": sum.errors,
                "failed": sum.failed(),
                "internal_rpcs_per_request": per_request(&sum),
                "ratio": { "rate": rate, "p50": p50 },
                "rounds": turns.iter().map(|turn| json!({
                    "seconds": turn.elapsed.as_secs_f64(),
                    "rate": turn.rate(),
                    "latency_us": latencies(turn),
                    "requests": turn.requests(),
                    "failed": turn.failed(),
                    "internal_rpcs": turn.internal_rpcs,
                })).collect::<Vec<_>>(),
            })
        });
        json!({ "conditions": self.conditions, "ways": ways.collect::<Vec<_>>() })
    }

    /// Rate and median latency as multiples of the first way's.
    fn ratios(&self, turns: &[Turn]) -> (f64, f64) {
        let first = self.ways.first().map_or(&[][..], |(_, turns)| turns);
        let p50 = |turn: &Turn| turn.latencies.value_at_percentile(50.0) as f64;
        (
            median(turns.iter().zip(first).map(|(turn, first)| turn.rate() / first.rate())),
            median(turns.iter().zip(first).map(|(turn, first)| p50(turn) / p50(first))),
        )
    }
}

fn latencies(turn: &Turn) -> Value {
    if turn.latencies.is_empty() {
        return Value::Null;
    }
    let at =
        |(name, percentile)| (str::to_owned(name), turn.latencies.value_at_percentile(percentile).into());
    Value::Object(PERCENTILES.map(at).into_iter().collect())
}

fn per_request(turn: &Turn) -> Option<f64> {
    Some(turn.internal_rpcs? as f64 / turn.requests().max(1) as f64)
}

fn milliseconds(microseconds: u64, turn: &Turn) -> String {
    match turn.latencies.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.2}", microseconds as f64 / 1000.0),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + values.get(middle.wrapping_sub(1)).unwrap_or(value)) / 2.0,
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_with_errors_is_marked() {
        let mut good = Turn::sum([]);
        good.latencies.saturating_record(2000);
        let mut bad = good.clone();
        bad.errors.insert("answered 500".to_owned(), 3);
        let ways = vec![("node".to_owned(), vec![good]), ("sdk".to_owned(), vec![bad])];
        let report = Report { conditions: String::new(), ways };
        assert_eq!(report.errors(), 3);
        let text = report.text();
        assert!(text.contains("! sdk: 3 of 4 requests failed: answered 500"), "{text}");
        assert!(!text.contains("! node"), "{text}");
        assert_eq!(report.json()["ways"][1]["errors"]["answered 500"], 3);
    }
}
