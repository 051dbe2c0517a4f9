//! What clients under load saw, request by request, and the rows of docs/reliability.md that come of it.

use std::{
    fmt,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// A read that takes longer than this has been disturbed.
const DISTURBED: Duration = Duration::from_millis(100);

/// How a client reaches the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The SDK, without the proxy.
    Sdk,
    /// The official client over gRPC, and the proxy.
    Grpc,
    /// REST, and the proxy.
    Rest,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) via: Via,
    pub(crate) is_write: bool,
    /// The point that it was about.
    pub(crate) id: u64,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) error: Option<String>,
}

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<Vec<Entry>>,
    struck_at: Mutex<Option<Instant>>,
    upstream: Mutex<u64>,
}

/// A row of the table for one way to the cluster.
struct Row<'a> {
    what: &'a str,
    via: Via,
    entries: Vec<Entry>,
    struck_at: Option<Instant>,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn note(&self, entry: Entry) {
        self.entries().push(entry);
    }

    pub(crate) fn requests(&self) -> usize {
        self.entries().len()
    }

    /// A fault begins now.
    pub(crate) fn strike(&self) {
        *self.struck_at.lock().expect("a ledger") = Some(Instant::now());
    }

    /// How many requests the router has sent to nodes for these.
    pub(crate) fn note_upstream(&self, sent: u64) {
        *self.upstream.lock().expect("a ledger") = sent;
    }

    pub(crate) fn upstream(&self) -> u64 {
        *self.upstream.lock().expect("a ledger")
    }

    pub(crate) fn failed(&self, is_write: bool) -> Vec<Entry> {
        let failed = |entry: &&Entry| entry.is_write == is_write && entry.error.is_some();
        self.entries().iter().filter(failed).cloned().collect()
    }

    /// The points whose writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<u64> {
        let entries = self.entries();
        entries.iter().filter(|entry| entry.is_write && entry.error.is_none()).map(|entry| entry.id).collect()
    }

    pub(crate) fn reads(&self) -> Vec<Entry> {
        self.entries().iter().filter(|entry| !entry.is_write).cloned().collect()
    }

    pub(crate) fn slowest_read(&self) -> Duration {
        self.reads().iter().map(|entry| entry.took).max().unwrap_or_default()
    }

    /// Prints a row for each way to the cluster.
    pub(crate) fn tell(&self, what: &str) {
        let struck_at = *self.struck_at.lock().expect("a ledger");
        for via in [Via::Sdk, Via::Grpc, Via::Rest] {
            let entries = self.entries().iter().filter(|entry| entry.via == via).cloned().collect();
            println!("{}", Row { what, via, entries, struck_at });
        }
        let (sent, asked) = (self.upstream(), self.requests());
        println!("  {what}: {sent} requests to nodes for {asked} of clients");
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().expect("a ledger")
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, via, entries, struck_at } = self;
        write!(f, "| {what} | {via:?} |")?;
        for is_write in [false, true] {
            let of_kind = || entries.iter().filter(|entry| entry.is_write == is_write);
            let failed = of_kind().filter(|entry| entry.error.is_some()).count();
            let slowest = of_kind().map(|entry| entry.took).max().unwrap_or_default();
            write!(f, " {} | {failed} | {} ms |", of_kind().count(), slowest.as_millis())?;
        }
        // Until the last read that was disturbed had its answer.
        let recovered = struck_at.map(|struck_at| {
            let disturbed = |entry: &&Entry| {
                !entry.is_write && entry.began + entry.took > struck_at && entry.took > DISTURBED
            };
            let ends = entries.iter().filter(disturbed).map(|entry| entry.began + entry.took - struck_at);
            ends.max().unwrap_or_default()
        });
        match recovered {
            Some(time) => write!(f, " {} ms |", time.as_millis()),
            None => write!(f, " – |"),
        }
    }
}
