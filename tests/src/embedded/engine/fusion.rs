//! Reciprocal rank fusion: several lists of hits into one, by their places alone.

use std::collections::HashMap;

use super::super::model::{PointId, Scored};

/// Joins the lists of a query's prefetches, best first. Qdrant leaves the order of equal scores open; here it is by id.
pub(super) fn fuse(lists: Vec<Vec<Scored>>, k: u32, threshold: Option<f32>) -> Vec<Scored> {
    let mut fused: HashMap<PointId, Scored> = HashMap::new();
    for (place, mut hit) in lists.into_iter().flat_map(|list| list.into_iter().enumerate()) {
        let score = 1.0 / (place as f32 + k as f32);
        hit.score = 0.0;
        fused.entry(hit.record.id).or_insert(hit).score += score;
    }
    let mut hits: Vec<Scored> = fused.into_values().collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.record.id.cmp(&b.record.id)));
    hits.retain(|hit| threshold.is_none_or(|threshold| hit.score >= threshold));
    hits
}

#[cfg(test)]
mod tests {
    use super::super::super::model::Record;
    use super::*;

    fn list(ids: &[u64]) -> Vec<Scored> {
        let hit = |id: &u64| Scored {
            record: Record { id: PointId::Num(*id), payload: None, vectors: None, shard_key: None },
            version: 0,
            score: 7.0,
        };
        ids.iter().map(hit).collect()
    }

    #[test]
    fn places_count_and_scores_do_not() {
        let fused = fuse(vec![list(&[1, 2, 3]), list(&[3, 4])], 2, None);
        let found: Vec<_> = fused.iter().map(|hit| (hit.record.id, hit.score)).collect();
        let expected = [(3, 0.25 + 0.5), (1, 0.5), (2, 1.0 / 3.0), (4, 1.0 / 3.0)];
        assert_eq!(found, expected.map(|(id, score)| (PointId::Num(id), score)));
        assert_eq!(fuse(vec![list(&[1, 2, 3])], 2, Some(0.3)).len(), 2);
    }
}
