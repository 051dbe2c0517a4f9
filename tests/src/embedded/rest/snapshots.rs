//! Snapshots: small files that only the node that made them has.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::engine::{Engine, Priority, Scope};
use super::super::error::OpResult;
use super::super::shard::SnapshotFile;
use super::body::{optional, required};
use super::{Ask, Reply};

/// What a route does with the snapshots it is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    List(Of),
    Create(Of),
    Get(Of),
    Delete(Of),
    Recover,
}

/// What a route's snapshots are of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Node,
    Collection,
    Shard,
}

pub(super) async fn run(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    match page {
        Page::List(of) => {
            let (scope, _) = scope(of, ask)?;
            Ok(Reply::Result(engine.list_snapshots(scope)?.iter().map(describe).collect::<Value>()))
        }
        Page::Create(of) => {
            let (scope, _) = scope(of, ask)?;
            let snapshot = engine.create_snapshot(scope)?;
            done(ask, describe(&snapshot))
        }
        Page::Get(of) => {
            let (scope, name) = scope(of, ask)?;
            let snapshot = engine.find_snapshot(scope, name)?;
            Ok(Reply::File(snapshot.name, snapshot.content))
        }
        Page::Delete(of) => {
            let (scope, name) = scope(of, ask)?;
            engine.delete_snapshot(scope, name)?;
            done(ask, Value::Bool(true))
        }
        Page::Recover => {
            let object = ask.object()?;
            required(&object, "location")?;
            let location: String = optional(&object, "location")?.unwrap_or_default();
            let priority: Option<Priority> = optional(&object, "priority")?;
            let checksum: Option<String> = optional(&object, "checksum")?;
            let priority = priority.unwrap_or_default();
            engine.recover_snapshot(ask.param(0), &location, priority, checksum.as_deref()).await?;
            done(ask, Value::Bool(true))
        }
    }
}

/// Done at once in either case; without `wait` only the answer differs.
fn done(ask: &Ask, result: Value) -> OpResult<Reply> {
    Ok(if ask.flag("wait", true)? { Reply::Result(result) } else { Reply::Accepted })
}

/// What a path is about, and the name of a snapshot at its end.
fn scope(of: Of, ask: &Ask) -> OpResult<(Scope<'_>, &str)> {
    Ok(match of {
        Of::Node => (Scope::Full, ask.param(0)),
        Of::Collection => (Scope::Collection(ask.param(0)), ask.param(1)),
        Of::Shard => (Scope::Shard(ask.param(0), ask.shard(1)?), ask.param(2)),
    })
}

fn describe(snapshot: &SnapshotFile) -> Value {
    json!({
        "name": snapshot.name,
        "creation_time": snapshot.created,
        "size": snapshot.content.len(),
        "checksum": snapshot.checksum(),
    })
}
