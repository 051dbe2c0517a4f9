//! One replica of one shard: points in memory, exact search, and the files a node keeps beside them.
//!
//! Storage outlives a node's process: killing a node drops its sockets and tasks, never what is in here.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::{Map, Value};
use siphasher::sip::SipHasher13;

use super::consensus::Schema;
use super::error::{OpError, OpResult};
use super::filter::{Filter, values_at};
use super::model::{
    Answer, Point, PointId, Read, Record, Scored, Selector, ShardQuery, Update, UpdateMode, Vectors,
    WithPayload, WithVectors,
};

/// Everything one node would have on disk.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    shards: Mutex<HashMap<(u64, u32), Arc<Shard>>>,
    snapshots: Mutex<BTreeMap<Shelf, Vec<SnapshotFile>>>,
}

/// Where snapshots of one kind lie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shelf {
    /// Snapshots of everything a node has.
    Full,
    Collection(String),
    Shard(String, u32),
}

/// One snapshot as a listing shows it, with its content.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) name: String,
    pub(crate) created: String,
    pub(crate) content: Vec<u8>,
    /// The replicas as they were, for recovery.
    pub(crate) replicas: BTreeMap<u32, Arc<Shard>>,
}

/// A replica's points, and the lock that a write leader holds.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    data: RwLock<Points>,
    /// Serialises `medium` and `strong` writes on the node that leads them.
    pub(crate) order: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Points {
    points: BTreeMap<PointId, Stored>,
    next_operation: u64,
}

#[derive(Clone, Debug)]
struct Stored {
    version: u64,
    payload: Map<String, Value>,
    vectors: Vectors,
}

// === impl SnapshotFile ===

impl SnapshotFile {
    /// Something that changes with the content; of the length of a SHA-256 in hexadecimal, which it is not.
    pub(crate) fn checksum(&self) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write(&self.content);
        format!("{:064x}", hasher.finish())
    }
}

// === impl Storage ===

impl Storage {
    /// The replica of a shard, made on first use: consensus decides who has one, storage merely follows.
    pub(crate) fn shard(&self, collection: u64, shard: u32) -> Arc<Shard> {
        Arc::clone(lock(&self.shards).entry((collection, shard)).or_default())
    }

    /// Forgets replicas for which `keep` is false.
    pub(crate) fn retain(&self, keep: impl Fn(u64, u32) -> bool) {
        lock(&self.shards).retain(|(collection, shard), _| keep(*collection, *shard));
    }

    /// Runs `work` on the snapshots of one shelf.
    pub(crate) fn snapshots<T>(&self, shelf: Shelf, work: impl FnOnce(&mut Vec<SnapshotFile>) -> T) -> T {
        work(lock(&self.snapshots).entry(shelf).or_default())
    }

    /// A snapshot by its name, on whatever shelf it lies.
    pub(crate) fn any_snapshot(&self, name: &str) -> Option<SnapshotFile> {
        lock(&self.snapshots).values().flatten().find(|file| file.name == name).cloned()
    }
}

/// A poisoned lock only says that some test panicked elsewhere; the data is whole, as every change is made in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shard ===

impl Shard {
    /// How many points are stored.
    pub(crate) fn len(&self) -> usize {
        self.data.read().unwrap_or_else(PoisonError::into_inner).points.len()
    }

    /// Applies a write and returns its number in this replica's log.
    pub(crate) fn apply(&self, schema: &Schema, update: &Update) -> OpResult<u64> {
        let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
        let number = data.next_operation;
        // A refused write occupies a place in the log too.
        data.next_operation += 1;
        data.apply(schema, update, number)?;
        Ok(number)
    }

    /// Becomes a copy of `other`.
    pub(crate) fn copy_from(&self, other: &Shard) {
        let copy = other.data.read().unwrap_or_else(PoisonError::into_inner).clone();
        *self.data.write().unwrap_or_else(PoisonError::into_inner) = copy;
    }

    /// Takes over the points of `other` that `belongs` names, leaving those already here alone.
    pub(crate) fn adopt(&self, other: &Shard, belongs: impl Fn(&PointId) -> bool) {
        let copy = other.data.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
        for (id, point) in copy.points.into_iter().filter(|(id, _)| belongs(id)) {
            data.points.entry(id).or_insert(point);
        }
    }

    /// Drops points that no longer belong here.
    pub(crate) fn retain(&self, belongs: impl Fn(&PointId) -> bool) {
        self.data.write().unwrap_or_else(PoisonError::into_inner).points.retain(|id, _| belongs(id));
    }

    /// Executes a read.
    pub(crate) fn read(&self, schema: &Schema, read: &Read) -> OpResult<Answer> {
        let data = self.data.read().unwrap_or_else(PoisonError::into_inner);
        match read {
            Read::Get { ids, with_payload, with_vectors } => Ok(Answer::Records(
                ids.iter()
                    .filter_map(|id| {
                        data.points.get(id).map(|point| point.record(*id, with_payload, with_vectors))
                    })
                    .collect(),
            )),
            Read::Scroll { offset, limit, filter, with_payload, with_vectors } => Ok(Answer::Records(
                data.points
                    .range(offset.unwrap_or(PointId::Num(0))..)
                    .filter(|(id, point)| filter.as_ref().is_none_or(|f| f.matches(id, &point.payload)))
                    .take(*limit)
                    .map(|(id, point)| point.record(*id, with_payload, with_vectors))
                    .collect(),
            )),
            Read::Count { filter } => Ok(Answer::Count(data.matching(filter.as_ref()).count() as u64)),
            Read::Info => Ok(Answer::Count(data.points.len() as u64)),
            Read::Search { queries } | Read::Query { queries } => queries
                .iter()
                .map(|query| data.query(schema, query))
                .collect::<OpResult<_>>()
                .map(Answer::Scored),
            Read::Facet { key, filter } => Ok(Answer::Facet(data.facet(key, filter.as_ref()))),
        }
    }
}

// === impl Points ===

impl Points {
    fn matching<'a>(&'a self, filter: Option<&'a Filter>) -> impl Iterator<Item = (&'a PointId, &'a Stored)> {
        self.points.iter().filter(move |(id, point)| filter.is_none_or(|f| f.matches(id, &point.payload)))
    }

    fn apply(&mut self, schema: &Schema, update: &Update, version: u64) -> OpResult<()> {
        match update {
            Update::Upsert { points, condition, mode } => {
                self.upsert(schema, points, condition.as_ref(), *mode, version)
            }
            Update::Delete { selector } => {
                for id in self.select(selector) {
                    self.points.remove(&id);
                }
                Ok(())
            }
            Update::SetPayload { payload, selector, key } => {
                self.change(selector, version, |point| match key {
                    None => point.payload.extend(payload.clone()),
                    Some(key) => merge_at(&mut point.payload, key, payload),
                })
            }
            Update::OverwritePayload { payload, selector } => {
                self.change(selector, version, |point| point.payload.clone_from(payload))
            }
            Update::DeletePayload { keys, selector } => self.change(selector, version, |point| {
                for key in keys {
                    remove_at(&mut point.payload, key);
                }
            }),
            Update::ClearPayload { selector } => {
                self.change(selector, version, |point| point.payload.clear())
            }
            Update::SetVectors { points, condition } => {
                let vectors = points
                    .iter()
                    .map(|point| schema.prepare(&point.vectors).map(|vectors| (point.id, vectors)))
                    .collect::<OpResult<Vec<_>>>()?;
                for (id, vectors) in vectors {
                    let Some(point) = self.points.get_mut(&id) else {
                        return Err(no_point(&id));
                    };
                    if condition.as_ref().is_none_or(|f| f.matches(&id, &point.payload)) {
                        point.vectors.extend(vectors);
                        point.version = version;
                    }
                }
                Ok(())
            }
            Update::DeleteVectors { selector, names } => {
                for name in names {
                    schema.vector(name)?;
                }
                self.change(selector, version, |point| {
                    point.vectors.retain(|name, _| !names.contains(name));
                })
            }
        }
    }

    fn upsert(
        &mut self,
        schema: &Schema,
        points: &[Point],
        condition: Option<&Filter>,
        mode: UpdateMode,
        version: u64,
    ) -> OpResult<()> {
        // All or nothing: a point of the wrong size refuses the whole batch, as it does in Qdrant.
        let vectors =
            points.iter().map(|point| schema.prepare(&point.vectors)).collect::<OpResult<Vec<_>>>()?;
        for (point, vectors) in points.iter().zip(vectors) {
            let wanted = match self.points.get(&point.id) {
                Some(old) => {
                    mode != UpdateMode::InsertOnly
                        && condition.is_none_or(|f| f.matches(&point.id, &old.payload))
                }
                None => mode != UpdateMode::UpdateOnly,
            };
            if wanted {
                self.points.insert(point.id, Stored { version, payload: point.payload.clone(), vectors });
            }
        }
        Ok(())
    }

    fn select(&self, selector: &Selector) -> Vec<PointId> {
        match selector {
            Selector::Ids(ids) => ids.clone(),
            Selector::Filter(filter) => self.matching(Some(filter)).map(|(id, _)| *id).collect(),
        }
    }

    fn change(&mut self, selector: &Selector, version: u64, change: impl Fn(&mut Stored)) -> OpResult<()> {
        let mut missing = None;
        for id in self.select(selector) {
            match self.points.get_mut(&id) {
                Some(point) => {
                    change(point);
                    point.version = version;
                }
                None => missing = missing.or(Some(id)),
            }
        }
        missing.map_or(Ok(()), |id| Err(no_point(&id)))
    }

    fn query(&self, schema: &Schema, query: &ShardQuery) -> OpResult<Vec<Scored>> {
        let found = |id: PointId, point: &Stored, score: f32| Scored {
            record: point.record(id, &query.with_payload, &query.with_vectors),
            version: point.version,
            score,
        };
        let Some(vector) = &query.vector else {
            let all = self.matching(query.filter.as_ref()).take(query.limit);
            return Ok(all.map(|(id, point)| found(*id, point, 0.0)).collect());
        };
        let params = schema.vector(&query.using)?;
        params.check(vector)?;
        let wanted = params.distance.prepare(vector.clone());
        let mut scores: Vec<(f32, PointId, &Stored)> = self
            .matching(query.filter.as_ref())
            .filter_map(|(id, point)| {
                let stored = point.vectors.get(&query.using)?;
                Some((params.distance.score(&wanted, stored), *id, point))
            })
            .filter(|(score, ..)| {
                query.score_threshold.is_none_or(|least| params.distance.passes(*score, least))
            })
            .collect();
        scores.sort_by(|a, b| {
            let better =
                if params.distance.larger_is_better() { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) };
            better.then(a.1.cmp(&b.1))
        });
        scores.truncate(query.limit);
        Ok(scores.into_iter().map(|(score, id, point)| found(id, point, score)).collect())
    }

    fn facet(&self, key: &str, filter: Option<&Filter>) -> Vec<(Value, u64)> {
        let mut counts: Vec<(Value, u64)> = Vec::new();
        for (_, point) in self.matching(filter) {
            for value in values_at(&point.payload, key) {
                if !(value.is_string() || value.is_boolean() || value.is_i64()) {
                    continue;
                }
                match counts.iter_mut().find(|(known, _)| known == value) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((value.clone(), 1)),
                }
            }
        }
        counts
    }
}

// === impl Stored ===

impl Stored {
    fn record(&self, id: PointId, with_payload: &WithPayload, with_vectors: &WithVectors) -> Record {
        let payload = match with_payload {
            WithPayload::None => None,
            WithPayload::All => Some(self.payload.clone()),
            WithPayload::Include(keys) => {
                let mut payload = Map::new();
                for key in keys {
                    copy_at(&self.payload, &mut payload, key);
                }
                Some(payload)
            }
            WithPayload::Exclude(keys) => {
                let mut payload = self.payload.clone();
                for key in keys {
                    remove_at(&mut payload, key);
                }
                Some(payload)
            }
        };
        let vectors = match with_vectors {
            WithVectors::None => None,
            WithVectors::All => Some(self.vectors.clone()),
            WithVectors::Named(names) => {
                let named = self.vectors.iter().filter(|(name, _)| names.contains(name));
                Some(named.map(|(name, vector)| (name.clone(), vector.clone())).collect())
            }
        };
        Record { id, payload, vectors, shard_key: None }
    }
}

fn no_point(id: &PointId) -> OpError {
    OpError::not_found(format!("No point with id {id} found"))
}

/// Copies what lies under a dotted path, with the objects around it.
fn copy_at(from: &Map<String, Value>, to: &mut Map<String, Value>, path: &str) {
    if let Some(value) = from.get(path) {
        to.insert(path.to_owned(), value.clone());
    } else if let Some((first, rest)) = path.split_once('.')
        && let Some(Value::Object(inner)) = from.get(first)
        && let Value::Object(copy) = to.entry(first).or_insert_with(|| Value::Object(Map::new()))
    {
        copy_at(inner, copy, rest);
    }
}

fn remove_at(payload: &mut Map<String, Value>, path: &str) {
    if payload.remove(path).is_some() {
        return;
    }
    if let Some((first, rest)) = path.split_once('.')
        && let Some(Value::Object(inner)) = payload.get_mut(first)
    {
        remove_at(inner, rest);
    }
}

fn merge_at(payload: &mut Map<String, Value>, path: &str, new: &Map<String, Value>) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let slot = payload.entry(first).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    if let Value::Object(inner) = slot {
        match rest {
            None => inner.extend(new.clone()),
            Some(rest) => merge_at(inner, rest, new),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::from_json(&json!({"size": 2, "distance": "Dot"})).expect("a schema")
    }

    fn upsert(ids: &[u64]) -> Update {
        let points = ids
            .iter()
            .map(|id| Point {
                id: PointId::Num(*id),
                payload: json!({"n": id, "deep": {"a": 1, "b": 2}}).as_object().cloned().unwrap_or_default(),
                vectors: Vectors::from([(String::new(), vec![*id as f32, 1.0])]),
            })
            .collect();
        Update::Upsert { points, condition: None, mode: UpdateMode::Upsert }
    }

    #[test]
    fn search_is_exact_and_ordered() {
        let shard = Shard::default();
        shard.apply(&schema(), &upsert(&[1, 3, 2])).expect("stored");
        let query = ShardQuery {
            vector: Some(vec![1.0, 0.0]),
            using: String::new(),
            filter: None,
            limit: 2,
            score_threshold: None,
            with_payload: WithPayload::None,
            with_vectors: WithVectors::None,
        };
        let Answer::Scored(lists) =
            shard.read(&schema(), &Read::Query { queries: vec![query] }).expect("found")
        else {
            panic!("a query answers with scores");
        };
        let ids: Vec<_> = lists[0].iter().map(|hit| (hit.record.id, hit.score)).collect();
        assert_eq!(ids, vec![(PointId::Num(3), 3.0), (PointId::Num(2), 2.0)]);
    }

    #[test]
    fn a_wrong_size_refuses_the_whole_batch() {
        let shard = Shard::default();
        let Update::Upsert { mut points, condition, mode } = upsert(&[1, 2]) else { unreachable!() };
        points[1].vectors.insert(String::new(), vec![1.0]);
        let error = shard.apply(&schema(), &Update::Upsert { points, condition, mode }).unwrap_err();
        assert_eq!(error.to_string(), "Wrong input: Vector dimension error: expected dim: 2, got 1");
        assert_eq!(shard.len(), 0);
    }

    #[test]
    fn payload_changes_reach_into_objects() {
        let shard = Shard::default();
        shard.apply(&schema(), &upsert(&[1])).expect("stored");
        let selector = Selector::Ids(vec![PointId::Num(1)]);
        let payload = json!({"c": 3}).as_object().cloned().unwrap_or_default();
        let set = Update::SetPayload { payload, selector: selector.clone(), key: Some("deep".into()) };
        shard.apply(&schema(), &set).expect("set");
        let delete = Update::DeletePayload { keys: vec!["deep.a".into()], selector };
        assert_eq!(shard.apply(&schema(), &delete).expect("deleted"), 2);
        let get = Read::Get {
            ids: vec![PointId::Num(1)],
            with_payload: WithPayload::Include(vec!["deep.b".into(), "deep.c".into()]),
            with_vectors: WithVectors::None,
        };
        let Answer::Records(records) = shard.read(&schema(), &get).expect("read") else { panic!("records") };
        assert_eq!(
            Value::from(records[0].payload.clone().expect("a payload")),
            json!({"deep": {"b": 2, "c": 3}})
        );
    }

    #[test]
    fn a_missing_point_is_reported() {
        let selector = Selector::Ids(vec![PointId::Num(9)]);
        let error = Shard::default().apply(&schema(), &Update::ClearPayload { selector }).unwrap_err();
        assert_eq!(error.to_string(), "Not found: No point with id 9 found");
    }
}
