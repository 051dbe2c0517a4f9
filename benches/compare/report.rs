//! The figures of all rounds, as tables.

use std::fmt::Write as _;

use serde_json::json;

use crate::{Options, contender::Contender, load::Sample, machine, scenario::Scenario};

/// Ours, which the others are compared with.
const OURS: &str = "qdrant-router";

/// The figures so far.
#[derive(Debug)]
pub(crate) struct Report {
    contenders: Vec<(String, String)>,
    scenarios: Vec<&'static str>,
    /// By scenario, by contender, one of each round.
    samples: Vec<Vec<Vec<Sample>>>,
    conditions: String,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(contenders: &[Contender], scenarios: &[Scenario], options: &Options) -> Self {
        let conditions = format!(
            "{}; proxies with one worker on core {}, load and backend (three nodes) together on core {}; {} interleaved \
             rounds of {} s; load average before: {}",
            machine::describe(),
            options.proxy_core,
            options.load_core,
            options.rounds,
            options.seconds,
            machine::load_average(),
        );
        Self {
            contenders: contenders.iter().map(|it| (it.name.clone(), it.version.clone())).collect(),
            scenarios: scenarios.iter().map(|scenario| scenario.name).collect(),
            samples: vec![vec![Vec::new(); contenders.len()]; scenarios.len()],
            conditions,
        }
    }

    pub(crate) fn add(&mut self, scenario: usize, contender: usize, sample: Sample) {
        self.samples[scenario][contender].push(sample);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.samples.iter().flatten().flatten().all(|sample| sample.errors == 0)
    }

    /// The tables for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}; load average after: {}\n", self.conditions, machine::load_average());
        // Writing to a string cannot fail.
        for (scenario, samples) in self.scenarios.iter().zip(&self.samples) {
            let _ = writeln!(
                out,
                "\n{scenario}\n  {:<14}{:>10}{:>9}{:>7}{:>10}{:>10}{:>10}{:>10}  {:<10}errors",
                "", "rate/s", "CPU µs", "busy", "p50 µs", "p99 µs", "added µs", "peak MB", "CPU ours/"
            );
            for row in self.rows(samples) {
                let _ = writeln!(
                    out,
                    "  {:<14}{:>10.0}{:>9.1}{:>6.0}%{:>10.0}{:>10.0}{:>10.0}{:>10.1}  {:<10}{}",
                    row.name,
                    row.rate,
                    row.cpu,
                    row.busy * 100.0,
                    row.p50,
                    row.p99,
                    row.added,
                    row.peak,
                    row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                    row.error
                        .map_or_else(|| row.errors.to_string(), |error| format!("{} ({error})", row.errors)),
                );
            }
        }
        let _ = writeln!(out, "\nCPU per request, ours to theirs; latency added, ours to theirs\n");
        let others: Vec<_> = self.others().collect();
        let _ = write!(out, "  {:<44}", "");
        others.iter().for_each(|name| {
            let _ = write!(out, "{name:>16}");
        });
        for (scenario, samples) in self.scenarios.iter().zip(&self.samples) {
            let _ = write!(out, "\n  {scenario:<44}");
            for cell in self.ratios(samples) {
                let _ = write!(out, "{cell:>16}");
            }
        }
        out.push('\n');
        out
    }

    /// Those that ours is compared with.
    fn others(&self) -> impl Iterator<Item = &str> {
        self.contenders.iter().map(|(name, _)| name.as_str()).filter(|name| ![OURS, "none"].contains(name))
    }

    /// CPU and added latency as multiples of each other's.
    fn ratios(&self, samples: &[Vec<Sample>]) -> Vec<String> {
        let rows = self.rows(samples);
        let ours = rows.iter().find(|row| row.name == OURS).map_or(f64::NAN, |row| row.added);
        let others = rows.iter().filter_map(|row| Some((row, row.ratio?)));
        others
            .map(|(row, ratio)| {
                let mark = if row.errors > 0 { "!" } else { "" };
                // Megabytes can be quicker through a proxy than without one, and then there is nothing to compare.
                let is_added = ours > 0.0 && row.added > 0.0;
                let added = if is_added { format!("{:.2}", ours / row.added) } else { "–".to_owned() };
                format!("{mark}{ratio:.2}  {added}")
            })
            .collect()
    }

    /// The tables as a page of the documentation.
    pub(crate) fn page(&self) -> String {
        let mut out = String::from(
            "<!-- Written by `cargo run --release -p qdrant-router-benches --bin compare -- --page`. -->\n\n",
        );
        let versions: Vec<_> = self.contenders.iter().skip(1).map(|(_, version)| version.as_str()).collect();
        let _ = writeln!(
            out,
            "{}. Conditions: {}.\n\nCPU is user and system time of the proxy per request; \"added\" is the median latency less that without \
             a proxy; the ratio is our CPU per request to the other's. Each figure is the median of the rounds by itself, so that \
             a ratio is not quite the quotient of two columns; memory is the most of all rounds.",
            versions.join(", "),
            self.conditions
        );
        out.push_str("\n### Ratios\n\nOur CPU per request to theirs, and the latency that we add to what they add.\n\n| |");
        self.others().for_each(|name| {
            let _ = write!(out, " {name} |");
        });
        out.push_str("\n|---|");
        self.others().for_each(|_| out.push_str("---:|"));
        for (scenario, samples) in self.scenarios.iter().zip(&self.samples) {
            let _ = write!(out, "\n| {scenario} |");
            for cell in self.ratios(samples) {
                let _ = write!(out, " {} |", cell.replace("  ", " / "));
            }
        }
        out.push('\n');
        for (scenario, samples) in self.scenarios.iter().zip(&self.samples) {
            let _ = writeln!(out, "\n### {scenario}\n");
            out.push_str("| | requests/s | CPU µs | core used | p50 µs | p99 µs | added µs | peak MB | CPU ours / its |\n");
            out.push_str("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
            for row in self.rows(samples) {
                let failed =
                    if row.errors > 0 { format!(" (**{} errors**)", row.errors) } else { String::new() };
                let _ = writeln!(
                    out,
                    "| {}{failed} | {:.0} | {:.1} | {:.0} % | {:.0} | {:.0} | {:.0} | {:.1} | {} |",
                    row.name,
                    row.rate,
                    row.cpu,
                    row.busy * 100.0,
                    row.p50,
                    row.p99,
                    row.added,
                    row.peak,
                    row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                );
            }
        }
        out
    }

    /// Every figure of every round.
    pub(crate) fn json(&self) -> String {
        let scenarios: Vec<_> = self
            .scenarios
            .iter()
            .zip(&self.samples)
            .map(|(name, samples)| {
                let contenders: Vec<_> = self
                    .contenders
                    .iter()
                    .zip(samples)
                    .map(|((name, version), rounds)| {
                        let rounds: Vec<_> = rounds.iter().map(round).collect();
                        json!({ "name": name, "version": version, "rounds": rounds })
                    })
                    .collect();
                json!({ "name": name, "contenders": contenders })
            })
            .collect();
        format!("{:#}\n", json!({ "conditions": self.conditions, "scenarios": scenarios }))
    }

    fn rows<'a>(&'a self, samples: &'a [Vec<Sample>]) -> Vec<Row<'a>> {
        let direct =
            samples.first().map_or(0.0, |rounds| median(rounds.iter().map(|round| quantile(round, 0.5))));
        let ours = self.contenders.iter().position(|(name, _)| name == OURS).and_then(|at| samples.get(at));
        let mut rows = Vec::new();
        for ((name, _), rounds) in self.contenders.iter().zip(samples) {
            let ratio = ours
                .filter(|_| name != OURS && name != "none")
                .map(|ours| median(ours.iter().zip(rounds).map(|(ours, theirs)| cpu(ours) / cpu(theirs))));
            rows.push(Row {
                name,
                rate: median(rounds.iter().map(rate)),
                cpu: median(rounds.iter().map(cpu)),
                busy: median(
                    rounds.iter().map(|round| round.cpu.as_secs_f64() / round.elapsed.as_secs_f64()),
                ),
                p50: median(rounds.iter().map(|round| quantile(round, 0.5))),
                p99: median(rounds.iter().map(|round| quantile(round, 0.99))),
                added: median(rounds.iter().map(|round| quantile(round, 0.5))) - direct,
                peak: rounds.iter().map(|round| round.memory.1 as f64).fold(0.0, f64::max) / 1024.0,
                ratio,
                errors: rounds.iter().map(|round| round.errors).sum(),
                error: rounds.iter().find_map(|round| round.error.as_deref()),
            });
        }
        rows
    }
}

/// A line of a table.
struct Row<'a> {
    name: &'a str,
    rate: f64,
    cpu: f64,
    busy: f64,
    p50: f64,
    p99: f64,
    added: f64,
    peak: f64,
    ratio: Option<f64>,
    errors: u64,
    error: Option<&'a str>,
}

fn rate(sample: &Sample) -> f64 {
    sample.requests as f64 / sample.elapsed.as_secs_f64()
}

/// In microseconds per request.
fn cpu(sample: &Sample) -> f64 {
    sample.cpu.as_secs_f64() * 1e6 / sample.requests.max(1) as f64
}

/// In microseconds.
fn quantile(sample: &Sample, quantile: f64) -> f64 {
    sample.latencies.value_at_quantile(quantile) as f64 / 1e3
}

fn round(sample: &Sample) -> serde_json::Value {
    json!({
        "requests": sample.requests, "errors": sample.errors, "error": sample.error,
        "seconds": sample.elapsed.as_secs_f64(), "rate": rate(sample), "cpu_us": cpu(sample),
        "p50_us": quantile(sample, 0.5), "p90_us": quantile(sample, 0.9), "p99_us": quantile(sample, 0.99),
        "p999_us": quantile(sample, 0.999), "resident_kib": sample.memory.0, "peak_kib": sample.memory.1,
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => (values[length / 2 - 1] + values[length / 2]) / 2.0,
    }
}
