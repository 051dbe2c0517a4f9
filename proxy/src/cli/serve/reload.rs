//! Taking over a new configuration without closing a connection.
//!
//! A new configuration makes a new router, which looks for the nodes beside the one at work and takes
//! over once it knows them. Requests in flight end on the router they began with. A configuration that
//! cannot work is reported and left aside; one that does not reach the cluster waits, because a key
//! that its Secret already has may be one that Qdrant is yet to learn.

use std::{convert::Infallible, sync::Arc, time::Duration};

use qdrant_router::{Router, topology::Problem};
use rustls::ServerConfig;

use super::{FIRST_SURVEY, Serve, log::Log};
use crate::{
    cli::{Invocation, Verb},
    config::{LoadError, watch::Watch},
    journal::{Event, EventKind},
    lifecycle::Proxy,
};

/// A mistake repeats what is written in the file, which may be long; an event has this many characters of it.
const MAX_CAUSE: usize = 500;

/// Follows the configuration for as long as the proxy runs.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) invocation: Invocation,
    pub(super) watch: Watch,
    pub(super) proxy: Proxy,
    pub(super) log: Log,
    /// What is in use.
    pub(super) current: Serve,
}

/// A new configuration whose router is yet to take over.
#[derive(Debug)]
struct Candidate {
    serve: Serve,
    router: Router,
    tls: Option<Arc<ServerConfig>>,
}

// === impl Reload ===

impl Reload {
    pub(super) async fn run(mut self) -> Infallible {
        let mut candidate = None;
        loop {
            let current = self.proxy.router();
            tokio::select! {
                () = self.watch.changed() => {
                    candidate = self.read().map_err(|mistake| {
                        tracing::error!("the new configuration cannot work, the old one stays: {mistake}");
                        failed(&self.proxy, "cannot work, the old one stays", &mistake);
                    }).ok();
                }
                () = is_due(candidate.as_ref(), &current, &self.proxy) => {
                    if let Some(candidate) = candidate.take() {
                        self.adopt(candidate).await;
                    }
                }
            }
        }
    }

    /// Reads the configuration as it is now, and begins to look for its nodes.
    fn read(&mut self) -> Result<Candidate, String> {
        let (cli, origins) = self.invocation.load().map_err(|error| match error {
            LoadError::Mistake(mistake) => mistake,
            LoadError::Usage(error) => error.to_string(),
        })?;
        let Verb::Serve(serve) = cli.verb else { return Err("the verb is another".to_owned()) };
        // Also where the rest fails: a key file that is not there yet is waited for.
        self.watch.follow(serve.files());
        let router = serve.router().map_err(|error| error.located(&origins))?;
        let tls = serve.tls().map_err(|error| error.located(&origins))?;
        Ok(Candidate { serve, router, tls })
    }

    async fn adopt(&mut self, candidate: Candidate) {
        let Candidate { serve, router, tls } = candidate;
        let fixed: Vec<&str> = self
            .current
            .fixed()
            .into_iter()
            .zip(serve.fixed())
            .filter(|(old, new)| old != new)
            .map(|((key, _), _)| key)
            .collect();
        if !fixed.is_empty() {
            tracing::warn!(keys = fixed.join(", "), "these keys change at a restart only");
        }
        self.log.set(&serve.log);
        if let Err(error) = serve.telemetry.apply(&self.proxy.telemetry).await {
            tracing::error!("traces stay as they were: {error}");
        }
        self.proxy.speak_tls(tls);
        self.proxy.replace(router);
        self.current = serve;
        self.proxy.metrics.reloaded();
        self.proxy.journal.note(Event {
            kind: EventKind::Reloaded,
            subject: "configuration".to_owned(),
            text: "was taken over".to_owned(),
            cause: "the file or what it names has changed, or SIGHUP".to_owned(),
        });
        tracing::info!("the new configuration is in use");
    }
}

/// Counts a new configuration that does not take over, and tells why.
fn failed(proxy: &Proxy, text: &str, cause: &str) {
    proxy.metrics.reload_failed();
    proxy.journal.note(Event {
        kind: EventKind::ReloadFailed,
        subject: "configuration".to_owned(),
        text: text.to_owned(),
        cause: cause.chars().take(MAX_CAUSE).collect(),
    });
}

/// Resolves when `candidate` should take over from `current`, and never without a candidate.
async fn is_due(candidate: Option<&Candidate>, current: &Router, proxy: &Proxy) {
    let Some(Candidate { router, .. }) = candidate else { return std::future::pending().await };
    // Nothing is lost by leaving a router that knows nothing.
    if !knows_the_cluster(current) {
        return;
    }
    if tokio::time::timeout(FIRST_SURVEY, known(router)).await.is_ok() {
        return;
    }
    let problems: Vec<String> = router.topology().problems().iter().map(ToString::to_string).collect();
    let problems = problems.join("; ");
    tracing::warn!(
        "the new configuration does not reach the cluster, the old one stays until it does: {problems}"
    );
    failed(proxy, "does not reach the cluster, the old one stays until it does", &problems);
    known(router).await;
}

/// Waits until `router` knows the cluster.
async fn known(router: &Router) {
    /// What stands in the way can change without a new snapshot to tell it.
    const LOOK_AGAIN: Duration = Duration::from_secs(1);

    let mut topology = router.topology().clone();
    while !knows_the_cluster(router) {
        let _ = tokio::time::timeout(LOOK_AGAIN, topology.changed()).await;
    }
}

/// A server without cluster mode has no topology to tell, and is reached all the same.
fn knows_the_cluster(router: &Router) -> bool {
    let topology = router.topology();
    topology.snapshot().epoch().is_some()
        || topology.problems().iter().any(|problem| matches!(problem, Problem::Standalone(_)))
}
