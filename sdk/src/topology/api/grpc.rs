//! `CollectionClusterInfo`: the placement of a collection over gRPC, for where REST does not tell it.

use http::{HeaderValue, Uri};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use qdrant_client::qdrant::{
    CollectionClusterInfoRequest, CollectionClusterInfoResponse, ReshardingDirection, ShardKey as GrpcKey,
    collections_client::CollectionsClient, shard_key::Key,
};
use tonic::{Code, Request};

use super::super::{
    Address, ReplicaState,
    collection::{ClusterInfo, LocalShard, RemoteShard, ReshardingInfo, ShardKey},
};
use crate::connect::{Dialer, Tls};

/// Asks the node at `address`; `None` where it has no such collection. An error is in words.
pub(super) async fn cluster_info(
    address: Address,
    collection: &str,
    key: Option<&HeaderValue>,
    tls: Option<&Tls>,
) -> Result<Option<ClusterInfo>, String> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let origin: Uri = format!("{scheme}://{}", address.grpc()).parse().map_err(|_| "no URI".to_owned())?;
    let dialer = Dialer::new(address.grpc(), tls.map(|tls| tls.offering(b"h2")));
    let channel: Client<_, tonic::body::Body> =
        Client::builder(TokioExecutor::new()).http2_only(true).build(dialer);
    let mut client = CollectionsClient::with_origin(channel, origin);
    let mut request = Request::new(CollectionClusterInfoRequest { collection_name: collection.to_owned() });
    if let Some(Ok(key)) = key.map(|key| key.as_bytes().try_into()) {
        request.metadata_mut().insert("api-key", key);
    }
    match client.collection_cluster_info(request).await {
        Ok(reply) => Ok(Some(reply.into_inner().into())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

impl From<CollectionClusterInfoResponse> for ClusterInfo {
    fn from(reply: CollectionClusterInfoResponse) -> Self {
        let local = |row: qdrant_client::qdrant::LocalShardInfo| LocalShard {
            shard_id: row.shard_id,
            shard_key: row.shard_key.and_then(key),
            state: state(row.state),
        };
        let remote = |row: qdrant_client::qdrant::RemoteShardInfo| RemoteShard {
            shard_id: row.shard_id,
            shard_key: row.shard_key.and_then(key),
            peer_id: row.peer_id,
            state: state(row.state),
        };
        let resharding = |row: qdrant_client::qdrant::ReshardingInfo| ReshardingInfo {
            direction: match ReshardingDirection::try_from(row.direction) {
                Ok(ReshardingDirection::Up) => "up".to_owned(),
                Ok(ReshardingDirection::Down) => "down".to_owned(),
                Err(_) => String::new(),
            },
            shard_id: row.shard_id,
        };
        Self {
            peer_id: reply.peer_id,
            local_shards: reply.local_shards.into_iter().map(local).collect(),
            remote_shards: reply.remote_shards.into_iter().map(remote).collect(),
            transfers: reply.shard_transfers.len(),
            resharding_operations: Some(reply.resharding_operations.into_iter().map(resharding).collect()),
        }
    }
}

fn key(key: GrpcKey) -> Option<ShardKey> {
    Some(match key.key? {
        Key::Keyword(text) => ShardKey::Keyword(text),
        Key::Number(number) => ShardKey::Number(number),
    })
}

/// The enum's numbers are the places in the list of names; what is beyond them is not known here.
fn state(number: i32) -> ReplicaState {
    let at = usize::try_from(number).ok();
    at.and_then(|at| ReplicaState::NAMED.get(at).copied()).unwrap_or(ReplicaState::Unknown)
}

#[cfg(test)]
mod tests {
    use qdrant_client::qdrant::{LocalShardInfo, RemoteShardInfo, ReplicaState as GrpcState};

    use super::*;
    use crate::topology::Epoch;

    #[test]
    fn states_have_the_same_names_in_both_protocols() {
        for (at, named) in ReplicaState::NAMED.iter().copied().enumerate() {
            let number = i32::try_from(at).expect("few");
            assert_eq!(state(number), named);
            let grpc = GrpcState::try_from(number).map(|state| format!("{state:?}"));
            assert_eq!(grpc.as_deref(), Ok(named.as_str()));
        }
        assert_eq!((state(11), state(-1)), (ReplicaState::Unknown, ReplicaState::Unknown));
    }

    #[test]
    fn a_reply_makes_the_same_collection() {
        let reply = CollectionClusterInfoResponse {
            peer_id: 1,
            shard_count: 2,
            local_shards: vec![LocalShardInfo { shard_id: 0, ..Default::default() }],
            remote_shards: vec![RemoteShardInfo {
                shard_id: 1,
                peer_id: 2,
                state: 1,
                shard_key: Some("a".to_owned().into()),
            }],
            ..Default::default()
        };
        let collection = ClusterInfo::from(reply).into_collection(Epoch::default());
        assert_eq!(collection.shards().len(), 2);
        assert_eq!(collection.shards()[1].key.as_deref(), Some(&ShardKey::Keyword("a".to_owned())));
        assert_eq!(collection.shards()[1].replicas[0].state, ReplicaState::Dead);
    }
}
