//! Snapshots: small files that only the node that made them has.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::engine::Engine;
use super::super::error::OpResult;
use super::super::shard::SnapshotFile;
use super::{Ask, Reply};

/// The routes of this module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    List,
    Create,
    Get,
    Delete,
    ListFull,
    CreateFull,
    GetFull,
    DeleteFull,
}

pub(super) fn run(page: Page, engine: &Arc<Engine>, ask: &Ask) -> OpResult<Reply> {
    let (of, name) = match page {
        Page::List | Page::Create | Page::Get | Page::Delete => (Some(ask.param(0)), ask.param(1)),
        Page::ListFull | Page::CreateFull | Page::GetFull | Page::DeleteFull => (None, ask.param(0)),
    };
    match page {
        Page::List | Page::ListFull => {
            Ok(Reply::Result(engine.list_snapshots(of)?.iter().map(describe).collect::<Value>()))
        }
        Page::Create | Page::CreateFull => {
            let snapshot = engine.create_snapshot(of)?;
            // Made at once in either case; only the answer differs.
            Ok(if ask.flag("wait", true)? { Reply::Result(describe(&snapshot)) } else { Reply::Accepted })
        }
        Page::Get | Page::GetFull => {
            let snapshot = engine.find_snapshot(of, name)?;
            Ok(Reply::File(snapshot.name, snapshot.content))
        }
        Page::Delete | Page::DeleteFull => {
            engine.delete_snapshot(of, name)?;
            Ok(if ask.flag("wait", true)? { Reply::Result(Value::Bool(true)) } else { Reply::Accepted })
        }
    }
}

fn describe(snapshot: &SnapshotFile) -> Value {
    json!({
        "name": snapshot.name,
        "creation_time": snapshot.created,
        "size": snapshot.content.len(),
        "checksum": snapshot.checksum(),
    })
}
