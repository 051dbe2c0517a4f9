//! When to read the configuration again: on SIGHUP, and when a file has other contents than before.
//!
//! Files are read every other second and compared by what they hold. On Kubernetes a mounted ConfigMap
//! or Secret changes by moving a symbolic link two levels up, which notifications of the file itself
//! do not tell; contents tell it everywhere, and do not change when an editor merely touches a file.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Watches files, and SIGHUP for as long as it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    hangup: Hangup,
    /// A file that cannot be read has no contents.
    files: BTreeMap<PathBuf, Option<u64>>,
}

// === impl Watch ===

impl Watch {
    /// Starts with the contents that the files have now.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let mut watch = Self { hangup: Hangup::new()?, files: BTreeMap::new() };
        watch.follow(files);
        Ok(watch)
    }

    /// Watches these files and no others from now on. To be called before they are read, so that a
    /// change in between is not missed.
    pub(crate) fn follow(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let known = std::mem::take(&mut self.files);
        self.files = files
            .into_iter()
            .map(|file| {
                let contents = known.get(&file).copied().unwrap_or_else(|| contents(&file));
                (file, contents)
            })
            .collect();
    }

    /// Waits until the configuration should be read again. Nothing is lost when the wait is given up.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = self.hangup.received() => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    self.has_changed();
                    return;
                }
                () = tokio::time::sleep(INTERVAL) => {
                    if self.has_changed() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether a file has other contents than when it was last looked at.
    fn has_changed(&mut self) -> bool {
        let mut has_changed = false;
        for (file, seen) in &mut self.files {
            let now = contents(file);
            if now != *seen {
                tracing::info!(file = %file.display(), "the file has changed: reading the configuration again");
                *seen = now;
                has_changed = true;
            }
        }
        has_changed
    }
}

/// Tells two contents of a file apart. The files are a few kilobytes, read without leaving the task.
fn contents(file: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(file).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

/// SIGHUP, which otherwise ends a process.
#[derive(Debug)]
struct Hangup {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

// === impl Hangup ===

#[cfg(unix)]
impl Hangup {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signal: signal(SignalKind::hangup())? })
    }

    async fn received(&mut self) {
        // No more signals come only when the runtime shuts down.
        if self.signal.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
impl Hangup {
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn received(&mut self) {
        std::future::pending().await
    }
}
