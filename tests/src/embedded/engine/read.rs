//! Reads: which shards, which replicas, and how the answers become one.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;

use super::super::consensus::CollectionMeta;
use super::super::error::{Kind, OpError, OpResult};
use super::super::filter::{Condition, Filter};
use super::super::model::{
    Answer, Consistency, KeySelector, Page, PointId, Query, QueryTarget, Read, ReadParams, Record, Scored,
    ShardQuery, WithPayload, WithVectors,
};
use super::super::peer_rpc::{Ask, Call, Told};
use super::Engine;
use super::fusion::fuse;

impl Engine {
    /// Points by their ids, in the order asked for. Asks every selected shard: reads do not use the ring.
    pub(crate) async fn retrieve(
        &self,
        collection: &str,
        ids: Vec<PointId>,
        with_payload: WithPayload,
        with_vectors: WithVectors,
        keys: Option<&KeySelector>,
        params: ReadParams,
    ) -> OpResult<Vec<Record>> {
        let meta = self.consensus.collection(collection)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let read = Read::Get { ids: ids.clone(), with_payload, with_vectors };
        let mut found: HashMap<PointId, Record> = HashMap::new();
        for record in records(self.scatter(&meta, keys, &read, params).await?) {
            found.insert(record.id, record);
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// One page of points in the order of their ids.
    pub(crate) async fn scroll(
        &self,
        collection: &str,
        read: Read,
        keys: Option<&KeySelector>,
        params: ReadParams,
    ) -> OpResult<Page> {
        let meta = self.consensus.collection(collection)?;
        let Read::Scroll { offset, limit, filter, with_payload, with_vectors } = read else {
            return Err(OpError::service("not a scroll"));
        };
        if limit == 0 {
            return Err(OpError::bad_request("Limit cannot be 0"));
        }
        // One more than asked for tells whether there is a next page, and where it begins.
        let read =
            Read::Scroll { offset, limit: limit.saturating_add(1), filter, with_payload, with_vectors };
        let mut points = records(self.scatter(&meta, keys, &read, params).await?);
        points.sort_by_key(|record| record.id);
        points.dedup_by_key(|record| record.id);
        let next = points.get(limit).map(|record| record.id);
        points.truncate(limit);
        Ok(Page { points, next })
    }

    /// How many points pass the filter.
    pub(crate) async fn count(
        &self,
        collection: &str,
        filter: Option<Filter>,
        keys: Option<&KeySelector>,
        params: ReadParams,
    ) -> OpResult<u64> {
        let meta = self.consensus.collection(collection)?;
        Ok(counts(&self.scatter(&meta, keys, &Read::Count { filter }, params).await?))
    }

    /// How many points the collection has: the part of its description that costs a round over all shards.
    pub(crate) async fn points_count(&self, meta: &CollectionMeta) -> OpResult<u64> {
        Ok(counts(&self.scatter(meta, None, &Read::Info, ReadParams::default()).await?))
    }

    /// The values of a payload key by frequency.
    pub(crate) async fn facet(
        &self,
        collection: &str,
        key: String,
        filter: Option<Filter>,
        limit: usize,
        keys: Option<&KeySelector>,
        params: ReadParams,
    ) -> OpResult<Vec<(Value, u64)>> {
        let meta = self.consensus.collection(collection)?;
        let mut hits: Vec<(Value, u64)> = Vec::new();
        for (_, answer) in self.scatter(&meta, keys, &Read::Facet { key, filter }, params).await? {
            let Answer::Facet(part) = answer else {
                continue;
            };
            for (value, count) in part {
                match hits.iter_mut().find(|(known, _)| *known == value) {
                    Some((_, sum)) => *sum += count,
                    None => hits.push((value, count)),
                }
            }
        }
        hits.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.to_string().cmp(&b.0.to_string())));
        hits.truncate(limit);
        Ok(hits)
    }

    /// The universal query call: one or several queries.
    pub(crate) async fn query(
        &self,
        collection: &str,
        queries: Vec<Query>,
        params: ReadParams,
    ) -> OpResult<Vec<Vec<Scored>>> {
        self.run_queries(collection, queries, params, |queries| Read::Query { queries }).await
    }

    /// The older search call; the same but for the name under which it travels.
    pub(crate) async fn search(
        &self,
        collection: &str,
        queries: Vec<Query>,
        params: ReadParams,
    ) -> OpResult<Vec<Vec<Scored>>> {
        self.run_queries(collection, queries, params, |queries| Read::Search { queries }).await
    }

    async fn run_queries(
        &self,
        collection: &str,
        queries: Vec<Query>,
        params: ReadParams,
        read: impl Fn(Vec<ShardQuery>) -> Read,
    ) -> OpResult<Vec<Vec<Scored>>> {
        let meta = self.consensus.collection(collection)?;
        let mut results = Vec::with_capacity(queries.len());
        // Neighbours with the same selection of shards travel together.
        for group in queries.chunk_by(|a, b| a.keys == b.keys) {
            results.extend(self.run_group(&meta, group, params, &read).await?);
        }
        Ok(results)
    }

    async fn run_group(
        &self,
        meta: &CollectionMeta,
        group: &[Query],
        params: ReadParams,
        read: &impl Fn(Vec<ShardQuery>) -> Read,
    ) -> OpResult<Vec<Vec<Scored>>> {
        let keys = group.first().and_then(|query| query.keys.as_ref());
        // A fusion travels as its prefetches, all of them in the one call that each shard gets.
        let sources: Vec<Vec<Query>> = group.iter().map(sources).collect();
        let flat = sources.concat();
        let examples = self.examples(meta, &flat, keys, params).await?;
        let later = fetches_payload_later(meta, group);
        let shard_queries =
            flat.iter().map(|query| shard_query(query, &examples, later)).collect::<OpResult<Vec<_>>>()?;
        for query in shard_queries.iter().filter(|query| query.vector.is_some()) {
            let space = meta.schema.vector(&query.using)?;
            space.check(query.vector.as_deref().unwrap_or_default())?;
        }
        let mut lists: Vec<Vec<Scored>> = vec![Vec::new(); flat.len()];
        for (shard, answer) in self.scatter(meta, keys, &read(shard_queries), params).await? {
            let Answer::Scored(parts) = answer else {
                continue;
            };
            let key = meta.shards.get(&shard).and_then(|shard| shard.key.clone());
            for (list, part) in lists.iter_mut().zip(parts) {
                list.extend(part.into_iter().map(|mut hit| {
                    hit.record.shard_key.clone_from(&key);
                    hit
                }));
            }
        }
        let mut merged = Vec::with_capacity(group.len());
        let mut lists = lists.into_iter();
        for (query, sources) in group.iter().zip(&sources) {
            let mut parts = sources
                .iter()
                .zip(lists.by_ref())
                .map(|(source, list)| merge(meta, source, list))
                .collect::<OpResult<Vec<_>>>()?;
            let mut hits = match query.target {
                QueryTarget::Fusion { k, .. } => {
                    let fused = fuse(parts, k, query.score_threshold);
                    fused.into_iter().skip(query.offset).take(query.limit).collect()
                }
                QueryTarget::None | QueryTarget::Vector(_) | QueryTarget::Point(_) => {
                    parts.pop().unwrap_or_default()
                }
            };
            if later {
                self.fill(meta, query, &mut hits, params).await?;
            }
            merged.push(hits);
        }
        Ok(merged)
    }

    /// The vectors of the points that queries name: a round of its own, before the search.
    async fn examples(
        &self,
        meta: &CollectionMeta,
        group: &[Query],
        keys: Option<&KeySelector>,
        params: ReadParams,
    ) -> OpResult<HashMap<PointId, Record>> {
        let mut ids = BTreeSet::new();
        let mut names = BTreeSet::new();
        for query in group {
            if let QueryTarget::Point(id) = query.target {
                ids.insert(id);
                names.insert(query.using.clone());
            }
        }
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let read = Read::Get {
            ids: ids.into_iter().collect(),
            with_payload: WithPayload::None,
            with_vectors: WithVectors::Named(names.into_iter().collect()),
        };
        let found = records(self.scatter(meta, keys, &read, params).await?);
        Ok(found.into_iter().map(|record| (record.id, record)).collect())
    }

    /// Adds payload and vectors to hits that travelled without.
    async fn fill(
        &self,
        meta: &CollectionMeta,
        query: &Query,
        hits: &mut Vec<Scored>,
        params: ReadParams,
    ) -> OpResult<()> {
        if hits.is_empty() {
            return Ok(());
        }
        let read = Read::Get {
            ids: hits.iter().map(|hit| hit.record.id).collect(),
            with_payload: query.with_payload.clone(),
            with_vectors: query.with_vectors.clone(),
        };
        let found = records(self.scatter(meta, query.keys.as_ref(), &read, params).await?);
        let mut found: HashMap<PointId, Record> =
            found.into_iter().map(|record| (record.id, record)).collect();
        hits.retain_mut(|hit| match found.remove(&hit.record.id) {
            Some(record) => {
                hit.record.payload = record.payload;
                hit.record.vectors = record.vectors;
                true
            }
            None => false,
        });
        Ok(())
    }

    /// Asks every selected shard at once. All must answer.
    async fn scatter(
        &self,
        meta: &CollectionMeta,
        keys: Option<&KeySelector>,
        read: &Read,
        params: ReadParams,
    ) -> OpResult<Vec<(u32, Answer)>> {
        let shards = meta.select(keys)?;
        let asks = shards.into_iter().map(|shard| async move {
            let mut answer = self.read_shard(meta, shard, read, params).await?;
            if let (Answer::Records(records), Some(meta)) = (&mut answer, meta.shards.get(&shard)) {
                for record in records {
                    record.shard_key.clone_from(&meta.key);
                }
            }
            Ok((shard, answer))
        });
        let all = try_join_all(asks);
        match params.timeout {
            None => all.await,
            Some(seconds) => {
                tokio::time::timeout(Duration::from_secs(seconds), all).await.unwrap_or_else(|_| {
                    Err(OpError::new(Kind::Timeout, format!("Operation 'Read' timed out after {seconds}s")))
                })
            }
        }
    }

    /// Reads one shard: the local replica if it is readable, otherwise two remote ones at once, first answer wins.
    /// Where several answers are required the first one stands for all of them. A client's token puts the replicas into
    /// an order of its own, in which the local one has no preference and one is asked at first.
    async fn read_shard(
        &self,
        meta: &CollectionMeta,
        shard: u32,
        read: &Read,
        params: ReadParams,
    ) -> OpResult<Answer> {
        let not_enough = || {
            OpError::service(format!(
                "The replica set for shard {shard} on peer {} does not have enough active replicas",
                self.peer_id
            ))
        };
        let replicas = meta.shards.get(&shard).ok_or_else(not_enough)?;
        let total = replicas.replicas.len().max(1);
        let required = match params.consistency {
            Consistency::All | Consistency::Majority => total,
            Consistency::Quorum => total / 2 + 1,
            Consistency::Factor(factor) => factor.clamp(1, total),
        };
        let local = replicas.readable().any(|peer| peer == self.peer_id);
        let mut order: Vec<u64> = replicas.readable().filter(|peer| *peer != self.peer_id).collect();
        if order.len() + usize::from(local) < required {
            return Err(not_enough());
        }
        self.shuffle(&mut order);
        if local {
            order.insert(0, self.peer_id);
        }
        if let Some(affinity) = params.affinity {
            affinity.order(&mut order);
        }
        let extra = match meta.read_fan_out_factor {
            Some(factor) => usize::try_from(factor).unwrap_or(usize::MAX),
            None => usize::from(!local && params.affinity.is_none()),
        };
        let mut candidates = order.into_iter();
        let ask = |peer: u64| self.read_from(meta, peer, shard, read);
        let mut running: FuturesUnordered<_> =
            candidates.by_ref().take(required.saturating_add(extra)).map(ask).collect();
        let mut first = None;
        let mut answers = 0;
        let mut errors: Vec<OpError> = Vec::new();
        while let Some(answer) = running.next().await {
            match answer {
                Ok(answer) => {
                    answers += 1;
                    let kept = first.get_or_insert(answer);
                    if answers >= required {
                        return Ok(kept.clone());
                    }
                }
                Err(error) if error.is_transient() => {
                    errors.push(error);
                    running.extend(candidates.next().map(ask));
                }
                Err(error) => return Err(error),
            }
        }
        let mut text = format!("{} of {} read operations failed:", errors.len(), errors.len() + answers);
        for error in errors {
            text = format!("{text}\n  {error}");
        }
        Err(OpError::service(text))
    }

    async fn read_from(&self, meta: &CollectionMeta, peer: u64, shard: u32, read: &Read) -> OpResult<Answer> {
        if peer == self.peer_id {
            return self.storage.shard(meta.uid, shard).read(&meta.schema, read);
        }
        let call = Call { collection: meta.name.clone(), shard, ask: Ask::Read(read.clone()) };
        match self.call_peer(peer, &call).await? {
            Told::Answer(answer) => Ok(answer),
            Told::Updated(_) => Err(OpError::service("a peer answered a read with a write")),
        }
    }
}

fn records(answers: Vec<(u32, Answer)>) -> Vec<Record> {
    answers
        .into_iter()
        .flat_map(|(_, answer)| match answer {
            Answer::Records(records) => records,
            Answer::Count(_) | Answer::Scored(_) | Answer::Facet(_) => Vec::new(),
        })
        .collect()
}

fn counts(answers: &[(u32, Answer)]) -> u64 {
    let count = |(_, answer): &(u32, Answer)| match answer {
        Answer::Count(count) => *count,
        Answer::Records(_) | Answer::Scored(_) | Answer::Facet(_) => 0,
    };
    answers.iter().map(count).sum()
}

/// Whether payload travels in a second round: when moving it from every shard would be ten times what is returned.
fn fetches_payload_later(meta: &CollectionMeta, group: &[Query]) -> bool {
    let wanted = group
        .iter()
        .any(|query| query.with_payload != WithPayload::None || query.with_vectors != WithVectors::None);
    let moved: usize = group.iter().map(|query| query.limit.saturating_add(query.offset)).sum();
    let used: usize = group.iter().map(|query| query.limit).sum();
    wanted && meta.shards.len().saturating_mul(moved) > used.saturating_mul(10)
}

/// What shards are asked on behalf of a query: itself, or its prefetches, each with what the whole asks for.
fn sources(query: &Query) -> Vec<Query> {
    let QueryTarget::Fusion { prefetch, .. } = &query.target else {
        return vec![query.clone()];
    };
    let source = |prefetch: &Query| Query {
        filter: Filter::both(query.filter.clone(), prefetch.filter.clone()),
        with_payload: query.with_payload.clone(),
        with_vectors: query.with_vectors.clone(),
        ..prefetch.clone()
    };
    prefetch.iter().map(source).collect()
}

fn shard_query(query: &Query, examples: &HashMap<PointId, Record>, later: bool) -> OpResult<ShardQuery> {
    let mut filter = query.filter.clone();
    let vector = match &query.target {
        QueryTarget::None | QueryTarget::Fusion { .. } => None,
        QueryTarget::Vector(vector) => Some(vector.clone()),
        QueryTarget::Point(id) => {
            let record =
                examples.get(id).ok_or_else(|| OpError::not_found(format!("No point with id {id} found")))?;
            let vector = record.vectors.as_ref().and_then(|vectors| vectors.get(&query.using)).cloned();
            // A point is not its own neighbour.
            let mut excluding = filter.take().unwrap_or_default();
            excluding.must_not.push(Condition::HasId(vec![*id]));
            filter = Some(excluding);
            Some(vector.ok_or_else(|| {
                OpError::bad_input(format!("Not existing vector name error: {}", query.using))
            })?)
        }
    };
    Ok(ShardQuery {
        vector,
        using: query.using.clone(),
        filter,
        limit: query.limit.saturating_add(query.offset),
        score_threshold: query.score_threshold,
        with_payload: if later { WithPayload::None } else { query.with_payload.clone() },
        with_vectors: if later { WithVectors::None } else { query.with_vectors.clone() },
    })
}

fn merge(meta: &CollectionMeta, query: &Query, mut hits: Vec<Scored>) -> OpResult<Vec<Scored>> {
    match query.target {
        QueryTarget::None | QueryTarget::Fusion { .. } => hits.sort_by_key(|hit| hit.record.id),
        QueryTarget::Vector(_) | QueryTarget::Point(_) => {
            let larger = meta.schema.vector(&query.using)?.distance.larger_is_better();
            hits.sort_by(|a, b| {
                let better = if larger { b.score.total_cmp(&a.score) } else { a.score.total_cmp(&b.score) };
                better.then(a.record.id.cmp(&b.record.id))
            });
        }
    }
    let mut seen = BTreeSet::new();
    hits.retain(|hit| seen.insert(hit.record.id));
    Ok(hits.into_iter().skip(query.offset).take(query.limit).collect())
}
