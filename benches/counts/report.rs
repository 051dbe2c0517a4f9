//! Counts beside their baseline, and what routing has of a request.

use crate::{Count, Counts, requests};

/// How much more instructions than its baseline a case may take: other processors have other copies of `memmove`.
const TOLERANCE: f64 = 0.10;

/// Allocations may not become more; but for whole requests by one, as what comes in one piece is a matter of timing.
fn most_allocations(name: &str, known: u64) -> u64 {
    known + u64::from(requests::ALL.iter().any(|request| request.name == name))
}

/// Prints the counts.
///
/// # Errors
///
/// When one of them is over its baseline, or has none.
pub(crate) fn compare(counts: &Counts, baseline: &Counts) -> Result<(), String> {
    let mut complaints = Vec::new();
    println!(
        "{:<50} {:>12} {:>12} {:>8} {:>12} {:>8}",
        "", "instructions", "baseline", "", "allocations", "baseline"
    );
    for (name, count) in counts {
        let Some(known) = baseline.get(name) else {
            println!(
                "{name:<50} {:>12} {:>12} {:>8} {:>12} {:>8}",
                count.instructions, "-", "", count.allocations, "-"
            );
            complaints.push(format!("`{name}` has no baseline"));
            continue;
        };
        let change = count.instructions as f64 / known.instructions.max(1) as f64 - 1.0;
        let verdict = match () {
            () if change > TOLERANCE || count.allocations > most_allocations(name, known.allocations) => {
                "over"
            }
            () if change < -TOLERANCE || count.allocations < known.allocations => "under: renew",
            () => "",
        };
        println!(
            "{name:<50} {:>12} {:>12} {:>+7.1}% {:>12} {:>8} {verdict}",
            count.instructions,
            known.instructions,
            100.0 * change,
            count.allocations,
            known.allocations
        );
        if verdict == "over" {
            complaints.push(format!("`{name}` is over its baseline"));
        }
    }
    share_of_routing(counts);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}\nWhere that is meant to be: `cargo bench -p qdrant-router-benches --bench counts -- --renew`, and commit benches/counts/baseline.json",
        complaints.join("\n")
    ))
}

/// What routing adds to a request: the difference to the same request with routing off.
fn share_of_routing(counts: &Counts) {
    println!("\n{:<50} {:>12} {:>8} {:>12}", "routing", "instructions", "share", "allocations");
    for pair in requests::ALL.chunks(2) {
        let [with, without] = pair else { continue };
        if let (Some(with_it), Some(without)) = (counts.get(with.name), counts.get(without.name)) {
            let Count { instructions, allocations } = *with_it;
            let more = instructions as f64 - without.instructions as f64;
            let allocated = i128::from(allocations) - i128::from(without.allocations);
            println!(
                "{:<50} {more:>12} {:>7.1}% {allocated:>12}",
                with.name,
                100.0 * more / instructions.max(1) as f64
            );
        }
    }
}
